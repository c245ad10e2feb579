//! Small file systems in memory, which fill up as disks do.
//!
//! Invariants:
//! - A mount ends with its value, also when the test fails; declare it before the cluster whose members live on it.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// One of them, mounted.
pub struct Tmpfs {
    dir: TempDir,
}

impl Tmpfs {
    /// Mounts one of so many MiB; the reason when this is not allowed here.
    pub fn mount(mib: u32) -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        mount(&format!("size={mib}m"), dir.path())?;
        Ok(Self { dir })
    }

    /// Mounts `count` of them, or says that the test is passed over and why.
    pub fn mount_many(count: usize, mib: u32) -> Option<Vec<Self>> {
        let mounts: Result<Vec<_>, String> = (0..count).map(|_| Self::mount(mib)).collect();
        match mounts {
            Ok(mounts) => Some(mounts),
            Err(why) => {
                println!("PASSED OVER: this test needs to mount a small tmpfs, which takes root: {why}");
                None
            }
        }
    }

    /// A directory on it that does not exist yet.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Makes it so many MiB large while it is in use.
    pub fn resize(&self, mib: u32) {
        mount(&format!("remount,size={mib}m"), self.dir.path()).expect("a mounted tmpfs can be resized");
    }

    /// Puts a foreign file there that takes all that is left.
    pub fn fill(&self) {
        let mut file = File::create(self.foreign()).expect("make a file");
        let zeros = vec![0; 64 << 10];
        for bytes in [zeros.len(), 4 << 10] {
            while file.write_all(&zeros[..bytes]).is_ok() {}
        }
    }

    /// Removes that file.
    pub fn unfill(&self) {
        std::fs::remove_file(self.foreign()).expect("remove the file");
    }

    fn foreign(&self) -> PathBuf {
        self.dir.path().join("foreign")
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let path = self.dir.path();
        let done = run(Command::new("umount").arg(path)).or_else(|_| run(Command::new("umount").arg("-l").arg(path)));
        if let Err(error) = done {
            eprintln!("{} stays mounted: {error}", path.display());
        }
    }
}

fn mount(options: &str, path: &Path) -> Result<(), String> {
    run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(path))
        .map_err(|error| error.to_string())
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    let said = || io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    if output.status.success() { Ok(()) } else { Err(said()) }
}
