//! `downbeat-guest`: init of a test guest. It sets the machine up, checks downbeat on its kernel
//! and switches it off. It speaks the line protocol of `downbeat_tests::guest` on the console.

mod checks;
mod machine;

use std::process::ExitCode;

use downbeat_tests::guest::Line;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!(
            "downbeat-guest: is the first process of a test guest and nothing else: it mounts \
             file systems and switches the machine off. Run `cargo xtask vm-test`"
        );
        return ExitCode::FAILURE;
    }
    match machine::set_up() {
        Ok(()) => {
            println!("{}", Line::Ok("boots".into()));
            checks::run_all(|line| println!("{line}"));
        }
        Err(error) => {
            println!("{}", Line::Fail { name: "boots".into(), why: format!("{error:#}") });
        }
    }
    println!("{}", Line::Done);
    machine::switch_off();
    ExitCode::FAILURE
}
