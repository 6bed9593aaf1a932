//! Volumes as orchestrators mount them: of root, of a group, open to everybody, left behind by
//! another user.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::support::{Serving, directory, run, text};

/// The user and group of the container image.
const USER: u32 = 65_532;
const STRANGER: u32 = 1000;

/// A cache directory that somebody else has made, and a program that its user can reach.
struct Volume {
    directory: tempfile::TempDir,
    config: PathBuf,
}

impl Volume {
    /// `None`, said on a line of its own that `./test` counts, without root; in CI that is a
    /// failure.
    fn of(owner: u32, group: u32, mode: u32) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "cannot be skipped in CI: needs root");
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            // The raw stream: the test runner swallows what the print macros write.
            let _ = writeln!(std::io::stderr(), "\nskipped: {test}: needs root");
            return None;
        }
        let (directory, config) = directory("");
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("ours");
        // A second name if it can have one: the folder of the build may be root's alone.
        let (built, program) =
            (env!("CARGO_BIN_EXE_roadstead"), directory.path().join("roadstead"));
        fs::hard_link(built, &program)
            .or_else(|_| fs::copy(built, &program).map(|_| ()))
            .expect("room for it");
        let volume = Self { directory, config };
        fs::create_dir(volume.cache()).expect("ours");
        volume.become_of(owner, group, mode);
        Some(volume)
    }

    fn cache(&self) -> PathBuf {
        self.directory.path().join("cache")
    }

    fn become_of(&self, owner: u32, group: u32, mode: u32) {
        chown(self.cache(), Some(owner), Some(group)).expect("root may");
        fs::set_permissions(self.cache(), Permissions::from_mode(mode)).expect("root may");
    }

    fn command(&self, user: u32) -> Command {
        let mut command = Command::new(self.directory.path().join("roadstead"));
        command.arg("serve").arg("--config").arg(&self.config).env_remove("RUST_LOG");
        command.uid(user).gid(user);
        command
    }

    /// Starts it for a moment; what it said.
    fn serve(&self, user: u32) -> String {
        let mut serving = Serving::spawn_with(&self.config, &mut self.command(user));
        let mut said = serving.until("clients=").join("\n");
        serving.signal(Signal::TERM);
        let (code, rest) = serving.end();
        said += &rest;
        assert_eq!(code, Some(0), "{said}");
        said
    }

    /// What it says instead of serving.
    fn refuses(&self, user: u32) -> String {
        let output = run(&mut self.command(user));
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        said
    }

    /// Everything in the directory, with the rights of others.
    fn open_to_others(&self) -> Vec<(PathBuf, u32)> {
        let rights = |path: &PathBuf| path.metadata().expect("there").permissions().mode() & 0o077;
        let all = everything_in(&self.cache()).into_iter().map(|path| (rights(&path), path));
        all.filter(|(rights, _)| *rights != 0).map(|(rights, path)| (path, rights)).collect()
    }
}

fn everything_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").filter_map(Result::ok);
    let mut found = Vec::new();
    for entry in entries {
        found.push(entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(everything_in(&entry.path()));
        }
    }
    found
}

const WARNING: &str = "others may write to the cache directory";

#[test]
fn a_volume_of_root_serves_its_group_or_everybody_and_what_is_made_in_it_is_private() {
    for (owner, group, mode, warns) in [
        // fsGroup
        (0, USER, 0o2775, true),
        (0, USER, 0o2770, true),
        // emptyDir
        (0, 0, 0o777, true),
        (0, 0, 0o1777, true),
        // A named volume of the image, and one that its user has made too open.
        (USER, USER, 0o755, false),
        (USER, USER, 0o777, false),
    ] {
        let Some(volume) = Volume::of(owner, group, mode) else { return };
        for start in 0..2 {
            let case = format!("{owner}:{group} {mode:o}, start {start}");
            let said = volume.serve(USER);
            assert_eq!(said.contains(WARNING), warns, "{case}: {said}");
            assert_eq!(volume.open_to_others(), [], "{case}");
            assert!(volume.cache().join("keys/access").exists(), "{case}");
            // As kubelet does with a volume that has an fsGroup, each time that it mounts it.
            for path in everything_in(&volume.cache()) {
                let mode = if path.is_dir() { 0o2770 } else { 0o660 };
                chown(&path, None, Some(USER)).expect("root may");
                fs::set_permissions(&path, Permissions::from_mode(mode)).expect("root may");
            }
        }
        let mode = volume.cache().metadata().expect("there").permissions().mode() & 0o777;
        assert_eq!(mode == 0o700, owner == USER, "its owner's is made private: {mode:o}");
    }
}

#[test]
fn a_directory_that_another_user_could_change_is_refused_and_root_makes_it_its_own() {
    let folders = ["", "blobs", "blobs/sha256", "staging", "keys"];
    for place in folders.into_iter().chain(["keys/access", "keys/revoked", "records.sqlite"]) {
        let Some(volume) = Volume::of(USER, USER, 0o700) else { return };
        volume.serve(USER);
        // Without licences nothing is revoked.
        let kept = volume.cache().join("keys/revoked");
        fs::write(&kept, "").expect("ours");
        chown(&kept, Some(USER), Some(USER)).expect("root may");
        fs::set_permissions(&kept, Permissions::from_mode(0o600)).expect("ours");
        // Without a slash at its end.
        let path: PathBuf = volume.cache().join(place).components().collect();
        chown(&path, Some(STRANGER), Some(STRANGER)).expect("root may");
        if place.is_empty() {
            volume.become_of(STRANGER, STRANGER, 0o777);
        }
        let said = volume.refuses(USER);
        let sentence = format!("{} belongs to user {STRANGER}", path.display());
        assert!(said.contains(&sentence) && said.contains("chown"), "{place}: {said}");
        let said = volume.serve(0);
        assert!(said.contains("this belonged to another user"), "{place}: {said}");
        assert_eq!(path.metadata().expect("there").uid(), 0, "{place}");
        assert_eq!(volume.open_to_others(), [], "{place}");
    }
}

#[test]
fn a_directory_that_this_user_may_not_write_to_stops_the_start() {
    let Some(volume) = Volume::of(0, 0, 0o755) else { return };
    let said = volume.refuses(USER);
    assert!(said.contains("Permission denied"), "{said}");
}

#[test]
fn nothing_in_the_folder_that_a_link_leads_to_is_swept() {
    let Some(volume) = Volume::of(USER, USER, 0o700) else { return };
    volume.serve(USER);
    let (staging, elsewhere) =
        (volume.cache().join("staging"), volume.directory.path().join("elsewhere"));
    fs::create_dir(&elsewhere).expect("ours");
    // Even what is named as ours.
    let valuable = elsewhere.join(format!("{}-1", "ab".repeat(32)));
    fs::write(&valuable, "valuable").expect("ours");
    fs::set_permissions(&elsewhere, Permissions::from_mode(0o777)).expect("ours");
    fs::remove_dir(&staging).expect("empty");
    symlink(&elsewhere, &staging).expect("ours");
    for user in [USER, 0] {
        let said = volume.serve(user);
        assert!(said.contains("it is not a folder"), "{said}");
        assert!(valuable.exists(), "as user {user}");
    }
}

#[test]
fn a_start_as_root_beside_a_running_one_changes_nothing() {
    let Some(volume) = Volume::of(USER, USER, 0o700) else { return };
    let mut serving = Serving::spawn_with(&volume.config, &mut volume.command(USER));
    serving.until("clients=");
    volume.become_of(USER, USER, 0o750);
    let rights = || -> Vec<_> {
        let all = everything_in(&volume.cache()).into_iter().chain([volume.cache()]);
        let found = all.map(|path| (path.metadata().expect("there"), path));
        found.map(|(found, path)| (path, found.uid(), found.gid(), found.mode())).collect()
    };
    let before = rights();
    let said = volume.refuses(0);
    assert!(said.contains("is in use by another roadstead"), "{said}");
    assert_eq!(rights(), before);
    serving.signal(Signal::TERM);
    assert_eq!(serving.end().0, Some(0));
}
