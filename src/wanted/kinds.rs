//! Where documents name images: objects of Kubernetes, compose files, and charts.

use super::line::ImageLine;
use super::place::quoted;
use super::trail::Trail;
use super::tree::Tree;

/// Lists whose items are containers: Kubernetes' own, and Tekton's.
const CONTAINERS: [&str; 5] =
    ["containers", "initContainers", "ephemeralContainers", "steps", "sidecars"];

/// Annotations of a chart that list its images.
const CHART_IMAGES: [&str; 2] = ["helm.sh/images", "artifacthub.io/images"];

/// Takes the path of an image, and the image or what is wrong with it.
pub(super) type FoundImage<'f> = &'f mut dyn FnMut(String, Result<ImageLine, String>);

/// Finds every image of a document, in its order.
///
/// # Errors
/// That it is none of what is known to name images.
pub(super) fn find_images(tree: &Tree, found: FoundImage<'_>) -> Result<(), String> {
    match tree {
        Tree::Nothing => Ok(()),
        Tree::List(items) if items.iter().all(is_object) => {
            in_object(tree, &Trail::Root, found);
            Ok(())
        }
        Tree::Map(_) if is_object(tree) => {
            in_object(tree, &Trail::Root, found);
            Ok(())
        }
        Tree::Map(_) => match (tree.get("services"), tree.get("annotations")) {
            (Some(services @ (Tree::Map(_) | Tree::Nothing)), _) => {
                in_services(services, found);
                Ok(())
            }
            (_, annotations) if annotations.is_some() || is_chart(tree) => {
                in_chart(annotations, found);
                Ok(())
            }
            _ => Err(unknown()),
        },
        Tree::List(_) | Tree::Text(_) | Tree::Other => Err(unknown()),
    }
}

fn unknown() -> String {
    "is not a list of images, nor objects of Kubernetes (kind), nor a compose file (services), nor a \
     Chart.yaml"
        .to_owned()
}

fn is_object(tree: &Tree) -> bool {
    matches!(tree.get("kind"), Some(Tree::Text(_)))
}

fn is_chart(tree: &Tree) -> bool {
    ["apiVersion", "name", "version"].iter().all(|key| tree.get(key).is_some())
}

/// Containers wherever they are, so that pod templates of any resource are found; image volumes;
/// and elsewhere, as in `spec.image` of custom resources, what can hardly be anything but an image:
/// its registry, tag or digest is said. What is in `metadata` and `status` is not asked for.
fn in_object(tree: &Tree, trail: &Trail<'_>, found: FoundImage<'_>) {
    match tree {
        Tree::List(items) => {
            for (nth, item) in items.iter().enumerate() {
                in_object(item, &Trail::Item(trail, nth), found);
            }
        }
        Tree::Map(entries) => {
            for (key, value) in entries {
                let at = Trail::Key(trail, key);
                match key.as_str() {
                    "metadata" | "status" => {}
                    "image" if trail.is_item_of(&CONTAINERS) => name(value, &at, found),
                    "reference" if trail.is_image_of_volume() => name(value, &at, found),
                    "image" if says_where(value) => name(value, &at, found),
                    _ => in_object(value, &at, found),
                }
            }
        }
        Tree::Nothing | Tree::Text(_) | Tree::Other => {}
    }
}

/// Whether a text can be read as an image, and says its registry, its tag or its digest.
fn says_where(value: &Tree) -> bool {
    let Tree::Text(text) = value else { return false };
    let host = |first: &str| first.contains('.') || first == "localhost";
    let says =
        text.contains([':', '@']) || text.split_once('/').is_some_and(|(first, _)| host(first));
    says && ImageLine::of(text).is_ok()
}

fn in_services(services: &Tree, found: FoundImage<'_>) {
    let Tree::Map(services) = services else { return };
    for (service, value) in services {
        if let Some(image) = value.get("image") {
            let (root, services) = (Trail::Root, "services");
            let (services, key) = (Trail::Key(&root, services), "image");
            name(image, &Trail::Key(&Trail::Key(&services, service), key), found);
        }
    }
}

fn in_chart(annotations: Option<&Tree>, found: FoundImage<'_>) {
    let at = Trail::Key(&Trail::Root, "annotations");
    for key in CHART_IMAGES {
        let at = Trail::Key(&at, key);
        let Some(Tree::Text(text)) = annotations.and_then(|all| all.get(key)) else { continue };
        match Tree::of_yaml(text) {
            Ok(Tree::List(items)) => {
                for (nth, item) in items.iter().enumerate() {
                    let at = Trail::Item(&at, nth);
                    let at = Trail::Key(&at, "image");
                    match item.get("image") {
                        Some(image) => name(image, &at, found),
                        None => found(at.shown(), Err("is not there".to_owned())),
                    }
                }
            }
            Ok(Tree::Nothing) => {}
            Ok(Tree::Text(_) | Tree::Other | Tree::Map(_)) | Err(_) => found(
                at.shown(),
                Err("is not YAML with a list of maps that have an image each".to_owned()),
            ),
        }
    }
}

/// The image that a value has to be. Where there is none, something else fills it in.
fn name(value: &Tree, at: &Trail<'_>, found: FoundImage<'_>) {
    let line = match value {
        Tree::Text(text) if text.contains('$') => Err(format!(
            "{} has a variable; give what `docker compose config` makes of it, or another program",
            quoted(text)
        )),
        Tree::Text(text) => ImageLine::of(text.trim()),
        Tree::Nothing => return,
        Tree::Other | Tree::List(_) | Tree::Map(_) => {
            Err("is not text; give what `helm template` makes of a template".to_owned())
        }
    };
    found(at.shown(), line);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `path image` of each, or `path ! what is wrong`.
    fn found(yaml: &str) -> Result<Vec<String>, String> {
        let mut all = Vec::new();
        let tree = Tree::of_yaml(yaml).map_err(|error| error.to_string())?;
        find_images(&tree, &mut |path, line| {
            all.push(match line {
                Ok(line) => format!("{path} {line}"),
                Err(wrong) => format!("{path} ! {wrong}"),
            });
        })?;
        Ok(all)
    }

    /// Asserts what is found, with the paths and images shortened by what all have.
    fn assert_found(yaml: &str, expected: &[&str]) {
        let images = found(yaml).expect(yaml);
        let images: Vec<_> =
            images.iter().map(|line| line.replace("docker.io/library/", "")).collect();
        assert_eq!(images, expected, "{yaml}");
    }

    #[test]
    fn containers_of_any_object_are_found() {
        for (yaml, expected) in [
            (
                "kind: Pod\nspec: {containers: [{image: a}, {name: b}], initContainers: [{image: 'b:1'}], \
                 ephemeralContainers: [{image: c}]}",
                &[
                    "spec.containers[0].image a:latest",
                    "spec.initContainers[0].image b:1",
                    "spec.ephemeralContainers[0].image c:latest",
                ][..],
            ),
            (
                "kind: CronJob\nspec: {jobTemplate: {spec: {template: {spec: {containers: [{image: a}]}}}}}",
                &["spec.jobTemplate.spec.template.spec.containers[0].image a:latest"],
            ),
            (
                "apiVersion: x.io/v1\nkind: Any\nspec: {pools: [{podTemplate: {spec: {containers: [{image: a}]}}}]}",
                &["spec.pools[0].podTemplate.spec.containers[0].image a:latest"],
            ),
            (
                "kind: Task\nspec: {steps: [{image: a}], sidecars: [{image: b}]}",
                &["spec.steps[0].image a:latest", "spec.sidecars[0].image b:latest"],
            ),
            (
                "kind: List\nitems: [{kind: Pod, spec: {containers: [{image: a}]}}]",
                &["items[0].spec.containers[0].image a:latest"],
            ),
            (
                "[{kind: Pod, spec: {containers: [{image: a}]}}]",
                &["[0].spec.containers[0].image a:latest"],
            ),
            (
                "kind: Pod\nspec: {volumes: [{name: m, image: {reference: 'a:1'}}, {rbd: {image: disk}}]}",
                &["spec.volumes[0].image.reference a:1"],
            ),
            ("kind: Prometheus\nspec: {image: 'quay.io/p/p'}", &["spec.image quay.io/p/p:latest"]),
            ("kind: A\nspec: {\"x.y/z\": {image: 'p:1'}}", &["spec[\"x.y/z\"].image p:1"]),
        ] {
            assert_found(yaml, expected);
        }
    }

    #[test]
    fn what_hardly_is_an_image_is_not_taken_for_one() {
        for yaml in [
            "kind: Machine\nspec: {image: ubuntu-2204}",
            "kind: Machine\nspec: {image: 'https://example.com/a.qcow2'}",
            "kind: Machine\nspec: {image: projects/a/images/b}",
            "kind: Chart\nspec: {image: {repository: a, tag: b}}",
            "kind: Pod\nmetadata: {x: {image: 'a:1'}}\nstatus: {containerStatuses: [{image: 'a:1', imageID: 'a@b'}]}",
            "status: {image: 'a:1'}\nmetadata: {image: 'a:1'}\nkind: Pod",
            "kind: ConfigMap\ndata: {x: 'image: a:1'}",
            "kind: Pod\nspec: {containers: [{image: null}, {image: ~}]}",
            "",
            "# nothing",
        ] {
            assert_found(yaml, &[]);
        }
    }

    #[test]
    fn services_of_compose_files_are_found() {
        assert_found(
            "x-a: &a {image: a, restart: always}\nservices:\n  one: {<<: *a}\n  two: {<<: *a, image: b}\n  \
             three: {build: .}\n  status: {image: c}\n  web.1: {image: d}\n  5: {image: e}\n  six: {image: !reset null}",
            &[
                "services.one.image a:latest",
                "services.two.image b:latest",
                "services.status.image c:latest",
                "services[\"web.1\"].image d:latest",
                "services[\"?\"].image e:latest",
            ],
        );
        assert_found("services:\n", &[]);
        let variable = found("services: {a: {image: 'x:${TAG:-1}'}}").expect("a compose file");
        assert!(
            variable[0].starts_with("services.a.image ! \"x:${TAG:-1}\" has a variable"),
            "{variable:?}"
        );
    }

    #[test]
    fn annotations_of_charts_are_found() {
        assert_found(
            "apiVersion: v2\nname: a\nversion: 1.0.0\nannotations:\n  artifacthub.io/images: |\n    - name: x\n      \
             image: 'a:1'\n  helm.sh/images: |\n    - image: b\n    - image: c\n  other: '- image: d'",
            &[
                "annotations[\"helm.sh/images\"][0].image b:latest",
                "annotations[\"helm.sh/images\"][1].image c:latest",
                "annotations[\"artifacthub.io/images\"][0].image a:1",
            ],
        );
        assert_found("apiVersion: v2\nname: a\nversion: 1.0.0", &[]);
        for text in ["a: b", "just text", "[", "5"] {
            let told =
                found(&format!("annotations: {{helm.sh/images: {text:?}}}")).expect("a chart");
            assert!(
                told[0].starts_with("annotations[\"helm.sh/images\"] ! is not YAML with a list"),
                "{told:?}"
            );
        }
        let told = found("annotations: {helm.sh/images: '- a'}").expect("a chart");
        assert_eq!(told, ["annotations[\"helm.sh/images\"][0].image ! is not there"]);
    }

    #[test]
    fn other_documents_are_an_error_and_not_an_empty_list() {
        for yaml in
            ["a: b", "text", "[1]", "[{image: a}]", "5", "image: {repository: a}", "services: [a]"]
        {
            assert!(
                found(yaml).expect_err(yaml).contains("nor objects of Kubernetes (kind)"),
                "{yaml}"
            );
        }
        let told = found("kind: Pod\nspec: {containers: [{image: 7}, {image: A}]}").expect("a pod");
        assert_eq!(
            told[0],
            "spec.containers[0].image ! is not text; give what `helm template` makes of a template"
        );
        assert!(
            told[1].starts_with("spec.containers[1].image ! \"A\": a repository name"),
            "{told:?}"
        );
    }

    #[test]
    fn a_long_path_keeps_its_end() {
        let deep = "{a-long-name-of-a-key: ".repeat(40);
        let yaml = format!("kind: A\nspec: {deep}{{containers: [{{image: a}}]}}{}", "}".repeat(40));
        let told = found(&yaml).expect("an object");
        assert!(told[0].starts_with('…') && told[0].contains("containers[0].image "), "{told:?}");
        assert!(told[0].chars().count() < 350);
    }
}
