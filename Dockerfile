# docker build -t roadstead .
# docker run --read-only --cap-drop ALL --security-opt no-new-privileges --memory 1g \
#     -v ./config.yaml:/etc/roadstead/config.yaml:ro -v roadstead:/var/lib/roadstead -p 5000:5000 roadstead
#
# The image to build in is named by tag, so that its fixes come by themselves: nothing of it but the libraries and
# certificates that deploy/rootfs copies gets into ours. Who wants the same bytes each time adds @sha256:… to it.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin roadstead && deploy/rootfs target/release/roadstead /rootfs

FROM scratch
COPY --from=build /rootfs /
COPY --from=build --chown=65532:65532 /rootfs/var/lib/roadstead /var/lib/roadstead
USER 65532:65532
WORKDIR /var/lib/roadstead
VOLUME /var/lib/roadstead
EXPOSE 5000 5001
ENTRYPOINT ["/roadstead"]
CMD ["serve", "--config", "/etc/roadstead/config.yaml"]
