//! One member as a process: start, kill -9, pause, stop, and where its output went.
//!
//! Invariants:
//! - The process is killed when its handle is dropped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Linux counts CPU time in these, on every architecture.
const USER_TICK_MS: u64 = 10;

/// A running `quorate serve`.
pub struct Process {
    child: Child,
    output: PathBuf,
}

impl Process {
    /// Starts `quorate serve` with `arguments`; its output is appended to `output`.
    pub fn start(arguments: &[String], output: &Path) -> Self {
        Self::start_by(Command::new(binary()), arguments, output)
    }

    /// The same in a network namespace.
    pub fn start_in(namespace: &str, arguments: &[String], output: &Path) -> Self {
        let mut command = Command::new("ip");
        // It becomes quorate, so the process that is killed or paused is the right one.
        command.args(["netns", "exec", namespace]).arg(binary());
        Self::start_by(command, arguments, output)
    }

    fn start_by(mut command: Command, arguments: &[String], output: &Path) -> Self {
        let file = File::options().create(true).append(true).open(output).expect("open the output file");
        // Whoever runs the tests may have settings of their own; and the tests' own variables are no settings.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("QUORATE_")) {
            command.env_remove(name);
        }
        let child = command
            .arg("serve")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("clone the output file"))
            .stderr(file)
            .spawn()
            .expect("start quorate");
        Self { child, output: output.to_owned() }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// kill -9, and the process is gone when this returns.
    pub fn kill(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to stop (SIGTERM) and waits for its end.
    pub fn stop(&mut self) -> ExitStatus {
        kill_process(self.pid(), Signal::TERM).expect("signal the process");
        self.child.wait().expect("wait for the process")
    }

    /// Stops it in its tracks (SIGSTOP).
    pub fn pause(&self) {
        kill_process(self.pid(), Signal::STOP).expect("pause the process");
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) {
        kill_process(self.pid(), Signal::CONT).expect("resume the process");
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("look at the process")
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("wait for the process")
    }

    /// All that it has printed so far.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Resident memory in bytes, now.
    pub fn resident_bytes(&self) -> u64 {
        self.proc_status("VmRSS:")
    }

    /// Most resident memory in bytes that it ever had.
    pub fn resident_bytes_max(&self) -> u64 {
        self.proc_status("VmHWM:")
    }

    /// Files and sockets that it has open now.
    pub fn open_files(&self) -> u64 {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.id()));
        open.map_or(0, |entries| entries.count() as u64)
    }

    /// CPU that it has used so far, of all its threads.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap_or_default();
        // The name, in parentheses, may have blanks; user and system time are the 12th and 13th field after it.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * USER_TICK_MS)
    }

    fn proc_status(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL ends a paused process too.
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- {} ---\n{}", self.output.display(), tail(&self.output(), 40));
        }
    }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// kill -9 of all processes that this one has started, for whoever ends without dropping their handles.
pub fn kill_children() {
    let parent = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        if let Some(pid) = pid.filter(|pid| parent(*pid) == Some(std::process::id())).and_then(Pid::from_raw) {
            // It may have ended meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The `quorate` binary that was built beside this test.
pub fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("know one's own path");
    let found = test.ancestors().map(|dir| dir.join("quorate")).find(|path| path.is_file());
    found.expect("the quorate binary stands beside the tests: build the whole workspace (`make test`)")
}

/// An example of the workspace, built beside the test that runs.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("know one's own path");
    let found = test.ancestors().map(|dir| dir.join("examples").join(name)).find(|path| path.is_file());
    found.expect("the examples stand beside the tests: build the whole workspace (`make test`)")
}
