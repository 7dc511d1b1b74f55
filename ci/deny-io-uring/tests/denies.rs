//! The launcher denies what it says, passes the rest through, and complains in a sentence.

use std::process::{Command, Output};

const LAUNCHER: &str = env!("CARGO_BIN_EXE_deny-io-uring");

fn launch(arguments: &[&str]) -> Output {
    Command::new(LAUNCHER).args(arguments).output().expect("the launcher starts")
}

fn printed(arguments: &[&str]) -> String {
    let output = launch(arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn io_uring_is_answered_with_the_errno_asked_for() {
    assert_eq!(printed(&[LAUNCHER, "--probe"]), "EPERM");
    assert_eq!(printed(&["--errno", "EPERM", LAUNCHER, "--probe"]), "EPERM");
    assert_eq!(printed(&["--errno", "ENOSYS", LAUNCHER, "--probe"]), "ENOSYS");
}

#[test]
fn children_of_children_are_denied_too() {
    assert_eq!(printed(&["--errno", "ENOSYS", "sh", "-c", &format!("{LAUNCHER} --probe; true")]), "ENOSYS");
}

#[test]
fn arguments_and_exit_code_are_the_programs_own() {
    let output = launch(&["sh", "-c", "echo \"$1\"; exit 7", "sh", "--errno"]);
    assert_eq!((output.status.code(), &*output.stdout), (Some(7), &b"--errno\n"[..]));
}

#[test]
fn bad_arguments_get_a_sentence() {
    for (arguments, code) in
        [(&[][..], 2), (&["--errno"], 2), (&["--errno", "EIO", "true"], 2), (&["--x"], 2), (&["/none"], 127)]
    {
        let output = launch(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert!(output.stderr.starts_with(b"deny-io-uring: ") || code == 2, "{output:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}
