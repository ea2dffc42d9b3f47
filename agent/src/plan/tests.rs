use super::*;

const THREAD: ThreadId = ThreadId { pid: 10, tid: 10, start_time: 5 };

fn wish(wanted: Vec<Value>, held: Vec<Held>) -> Wishes {
    let wish = Wish {
        thread: THREAD,
        process: "it".into(),
        name: "it".into(),
        class: Some("voice".into()),
        because: Some("a rule, a.toml:3".into()),
        wanted,
        joins: None,
        class_of_process: Some("voice".into()),
        held,
    };
    Wishes { threads: vec![wish], ..Wishes::default() }
}

/// What is known of a lever that was last asked to be `wanted`.
fn oom(wanted: &str, state: HeldState) -> Held {
    Held { lever: Lever::OomScoreAdj.name().into(), wanted: Some(wanted.into()), state }
}

fn ours() -> Held {
    oom("300", HeldState::Ours { old: "0".into(), ours: "300".into() })
}

fn reason(found: &[(Option<String>, String, PlanStep)]) -> String {
    match found {
        [(_, _, PlanStep::LeaveAlone { reason })] => reason.clone(),
        other => panic!("{other:?}"),
    }
}

fn steps(wishes: &Wishes, now: i16) -> Vec<(Option<String>, String, PlanStep)> {
    let plan = plan(wishes, &BTreeMap::new(), |_, _| Ok(Value::OomScoreAdj(now)));
    plan.changes.into_iter().map(|c| (c.now, c.wanted, c.step)).collect()
}

#[test]
fn what_differs_would_be_set_and_what_agrees_not() {
    let wanted = || wish(vec![Value::OomScoreAdj(300)], Vec::new());
    assert_eq!(steps(&wanted(), 0), [(Some("0".into()), "300".into(), PlanStep::Set)]);
    assert_eq!(steps(&wanted(), 300), []);
    assert_eq!(plan(&wanted(), &BTreeMap::new(), |_, _| Ok(Value::OomScoreAdj(300))).settled, 1);
}

#[test]
fn what_no_class_asks_for_any_more_would_go_back() {
    let no_more = wish(Vec::new(), vec![ours()]);
    assert_eq!(steps(&no_more, 300), [(Some("300".into()), "0".into(), PlanStep::PutBack)]);
    assert_eq!(steps(&no_more, 7), [], "someone else changed it: theirs");
}

#[test]
fn what_others_changed_and_what_was_refused_would_be_left_alone() {
    let wanted = vec![Value::OomScoreAdj(500)];
    assert!(reason(&steps(&wish(wanted.clone(), vec![ours()]), 7)).contains("someone"));
    let refused = |asked| oom(asked, HeldState::Refused { reason: "EPERM".into() });
    let told = steps(&wish(wanted.clone(), vec![refused("500")]), 7);
    assert_eq!(reason(&told), "refused: EPERM");
    let told = steps(&wish(wanted.clone(), vec![refused("400")]), 7);
    assert_eq!(told[0].2, PlanStep::Set, "another value is tried");
    let theirs = oom("400", HeldState::HandedOff { theirs: "7".into() });
    assert!(reason(&steps(&wish(wanted.clone(), vec![theirs]), 7)).contains("someone else"));
    let was_so = |asked| oom(asked, HeldState::AlreadySo);
    let told = steps(&wish(wanted.clone(), vec![was_so("500")]), 7);
    assert!(reason(&told).contains("someone else changed it since"), "{told:?}");
    assert_eq!(
        steps(&wish(wanted, vec![ours()]), 300),
        [(Some("300".into()), "500".into(), PlanStep::Set)],
        "what is ours may be changed"
    );
}

#[test]
fn a_thread_that_is_gone_has_no_plan_and_one_that_is_hidden_says_so() {
    let wanted = wish(vec![Value::OomScoreAdj(300)], vec![ours()]);
    let gone =
        plan(&wanted, &BTreeMap::new(), |_, _| Err(io::Error::from_raw_os_error(libc::ESRCH)));
    assert_eq!(gone, Plan::default());
    let hidden =
        plan(&wanted, &BTreeMap::new(), |_, _| Err(io::Error::from_raw_os_error(libc::EACCES)));
    assert!(matches!(&hidden.changes[0].step, PlanStep::LeaveAlone { .. }), "{hidden:?}");
}

#[test]
fn a_rung_in_place_of_what_was_refused_would_stay() {
    let rung = oom("500", HeldState::Ours { old: "0".into(), ours: "300".into() });
    let told = steps(&wish(vec![Value::OomScoreAdj(500)], vec![rung.clone()]), 300);
    assert!(reason(&told).contains("300 was set in its place"), "{told:?}");
    // Under another wish it is tried anew.
    let told = steps(&wish(vec![Value::OomScoreAdj(400)], vec![rung]), 300);
    assert_eq!(told[0].2, PlanStep::Set);
}

#[test]
fn a_process_that_a_class_adopts_would_be_moved_through_its_main_thread() {
    let here = |_, _: &Subject| Ok(Value::Cgroup("/user.slice".into()));
    let own = BTreeMap::from([(0, Arc::from("/downbeat.slice/voice"))]);
    let mut joins = wish(Vec::new(), Vec::new());
    joins.threads[0].joins = Some(0);
    let [change] = &plan(&joins, &own, here).changes[..] else { panic!() };
    assert_eq!((change.lever.as_str(), &change.step), ("cgroup", &PlanStep::Set));
    assert_eq!(change.wanted, "/downbeat.slice/voice");
    joins.threads[0].thread.tid += 1;
    assert_eq!(plan(&joins, &own, here).changes, [], "the kernel keeps one for all threads");
}

#[test]
fn what_a_process_has_once_is_not_promised_to_one_of_its_threads() {
    let mut wishes = wish(vec![Value::OomScoreAdj(300)], Vec::new());
    wishes.threads[0].thread.tid += 1;
    assert_eq!(steps(&wishes, 0), [], "the main thread has it");
    wishes.threads[0].class_of_process = Some("video".into());
    assert!(reason(&steps(&wishes, 0)).contains("its main thread has class video"));
    wishes.threads[0].class_of_process = None;
    assert!(reason(&steps(&wishes, 0)).contains("its main thread has no class"));
}
