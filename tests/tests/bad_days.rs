//! Bad input and bad days: each has a message that names the thing and the remedy, and nothing
//! panics.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Output;

use anyhow::{Result, ensure};
use downbeat_tests::agent::{PATIENCE, Place, output_within, said};
use downbeat_tests::skip::root_or_skip;

const GOOD: &str = "schema = 1\n[class.voice]\ntier = \"realtime\"\n\
                    [[rule]]\nclass = \"voice\"\nmatch = { exe = \"{bin}/downbeat-load\" }\n";
const NOBODY: u32 = 65534;

/// The agent's start with this place's folders, which is expected to fail.
fn refused(place: &Place) -> Result<Output> {
    output_within(&mut place.agent_command(), PATIENCE)
}

fn expect_refusal(output: &Output, words: &[&str]) -> Result<()> {
    let text = said(output);
    ensure!(output.status.code() == Some(1), "{}: {text}", output.status);
    ensure!(!text.contains("panicked"), "{text}");
    for word in words {
        ensure!(text.contains(word), "must say `{word}`: {text}");
    }
    Ok(())
}

#[test]
fn broken_toml_is_refused_by_file_and_line() -> Result<()> {
    let place = Place::new()?;
    let path = place.policy("50-bad.toml", "schema = 1\n[class.voice\n")?;
    let where_ = format!("{}:2:", path.display());
    let checked = place.downbeat(&["check".as_ref(), path.as_os_str()])?;
    expect_refusal(&checked, &[&where_])?;
    if root_or_skip() {
        expect_refusal(&refused(&place)?, &[&where_])?;
    }
    Ok(())
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() -> Result<()> {
    let place = Place::new()?;
    let text = GOOD.replace("tier = \"realtime\"", "tier = \"realtime\"\nshced = \"idle\"");
    let path = place.policy("50-bad.toml", &text)?;
    let where_ = format!("{}:4:1:", path.display());
    let words = [where_.as_str(), "shced", "sched"];
    let checked = place.downbeat(&["check".as_ref(), path.as_os_str()])?;
    expect_refusal(&checked, &words)?;
    if root_or_skip() {
        expect_refusal(&refused(&place)?, &words)?;
    }
    Ok(())
}

#[test]
fn a_good_file_is_checked_with_what_it_would_match_now() -> Result<()> {
    let place = Place::new()?;
    let path = place.policy("50-good.toml", GOOD)?;
    let crowd = place.load(&["crowd", "--live", "60s"])?;
    let checked = place.downbeat(&["check".as_ref(), path.as_os_str()])?;
    let text = said(&checked);
    ensure!(checked.status.success(), "{text}");
    ensure!(text.contains(&crowd.pid().to_string()) && text.contains("voice"), "{text}");
    Ok(())
}

#[test]
fn a_group_writable_policy_file_is_refused() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = Place::new()?;
    let path = place.policy("50-open.toml", GOOD)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o664))?;
    expect_refusal(&refused(&place)?, &[&path.to_string_lossy(), "chmod"])
}

#[test]
fn a_policy_file_of_another_user_is_refused() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = Place::new()?;
    let path = place.policy("50-foreign.toml", GOOD)?;
    chown(&path, Some(NOBODY), Some(NOBODY))?;
    expect_refusal(&refused(&place)?, &[&path.to_string_lossy(), "chown"])
}

#[test]
fn an_unreadable_policy_file_is_refused_by_name() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = Place::new()?;
    let path = place.path("policy").join("50-gone.toml");
    std::os::unix::fs::symlink("/nonexistent/policy.toml", &path)?;
    expect_refusal(&refused(&place)?, &[&path.to_string_lossy()])
}

#[test]
fn missing_folders_are_named_and_the_agent_watches_all_the_same() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = Place::new()?;
    fs::remove_dir(place.path("policy"))?;
    fs::remove_dir(place.path("pool.d"))?;
    let agent = place.start(&[])?;
    let missing = place.path("policy").to_string_lossy().into_owned();
    agent.wait_for(|snapshot| {
        let told = |n: &downbeat_api::Notice| n.text.contains(&missing) && n.remedy.is_some();
        snapshot.notices.iter().any(told).then_some(())
    })
}

#[test]
fn a_second_agent_on_the_same_run_directory_is_refused() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = Place::new()?;
    place.policy("50-good.toml", GOOD)?;
    let first = place.start(&[])?;
    let pid = first.pid().to_string();
    expect_refusal(&refused(&place)?, &[&pid, "--run-dir"])?;
    ensure!(first.snapshot().is_ok(), "the first must go on");
    Ok(())
}

#[test]
fn a_run_directory_that_cannot_be_written_is_named() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = Place::new()?;
    let mut command = place.agent_command();
    command.uid(NOBODY).gid(NOBODY);
    let output = output_within(&mut command, PATIENCE)?;
    expect_refusal(&output, &[&place.run_dir().to_string_lossy(), "ermission"])
}

#[test]
fn without_rights_the_agent_watches_and_says_what_it_cannot_do() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = Place::new()?;
    // Readable by anyone; owned by whom the agent runs as.
    let path = place.policy("50-good.toml", GOOD)?;
    chown(&path, Some(NOBODY), Some(NOBODY))?;
    for dir in ["run", "policy"] {
        chown(place.path(dir), Some(NOBODY), Some(NOBODY))?;
    }
    let mut command = place.agent_command();
    command.uid(NOBODY).gid(NOBODY);
    let log = place.path("agent.log");
    let agent = downbeat_tests::agent::Agent::start(command, place.run_dir(), log)?;
    let crowd = place.load(&["crowd", "--live", "60s"])?;
    agent.wait_for(|snapshot| {
        let procfs = matches!(&snapshot.source, downbeat_api::Source::Procfs { reason }
            if !reason.is_empty());
        let seen = snapshot.processes.iter().find(|p| p.pid == crowd.pid())?;
        (procfs && seen.threads == 5).then_some(())
    })?;
    ensure!(!agent.log().contains("panicked"), "{}", agent.log());
    Ok(())
}

#[test]
fn an_address_in_use_costs_only_the_metrics() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let place = Place::new()?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let command = place.agent_command_at(&address, "off");
    let log = place.path("agent.log");
    let agent = downbeat_tests::agent::Agent::start(command, place.run_dir(), log)?;
    agent.wait_for(|snapshot| {
        snapshot.notices.iter().any(|notice| notice.text.contains(&address)).then_some(())
    })
}

#[test]
fn asking_where_no_agent_is_names_the_socket_and_the_remedy() -> Result<()> {
    let place = Place::new()?;
    let run_dir = place.run_dir();
    let output = place.downbeat(&[
        "status".as_ref(),
        "--json".as_ref(),
        "--run-dir".as_ref(),
        run_dir.as_os_str(),
    ])?;
    ensure!(output.status.code() == Some(2), "{}", output.status);
    let text = said(&output);
    ensure!(text.contains("agent.sock") && text.contains("downbeatd"), "{text}");
    Ok(())
}

#[test]
fn a_wrong_option_is_refused_with_the_usage() -> Result<()> {
    let place = Place::new()?;
    for program in ["downbeatd", "downbeat", "downbeat-pool", "downbeat-worker"] {
        let mut command = std::process::Command::new(place.bin(program));
        let output = output_within(command.arg("--no-such-option"), PATIENCE)?;
        let text = said(&output);
        ensure!(output.status.code() == Some(2), "{program}: {}: {text}", output.status);
        ensure!(text.contains("--no-such-option") && text.contains("--help"), "{program}: {text}");
    }
    Ok(())
}
