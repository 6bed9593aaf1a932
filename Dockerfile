# docker build -t roadstead .
# docker run --read-only --cap-drop ALL --security-opt no-new-privileges --memory 1g \
#     -v ./config.yaml:/etc/roadstead/config.yaml:ro -v roadstead:/var/lib/roadstead -p 5000:5000 roadstead
#
# The image to build in is named by tag, so that its fixes come by themselves: nothing of it but the libraries and
# certificates that deploy/rootfs copies gets into ours. Who wants the same bytes each time adds @sha256:… to it.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The allocator has the page size of the machine it is built on, unless it is told: arm64 has kernels with 64 KiB.
RUN if [ "$(uname -m)" = aarch64 ]; then export JEMALLOC_SYS_WITH_LG_PAGE=16; fi; \
    cargo build --release --locked --bin roadstead && deploy/rootfs target/release/roadstead /rootfs

FROM scratch
COPY --from=build /rootfs /
COPY --from=build --chown=65532:65532 /rootfs/var/lib/roadstead /var/lib/roadstead
USER 65532:65532
WORKDIR /var/lib/roadstead
VOLUME /var/lib/roadstead
EXPOSE 5000 5001
ENTRYPOINT ["/roadstead"]
CMD ["serve", "--config", "/etc/roadstead/config.yaml"]
