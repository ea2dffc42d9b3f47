use downbeat_policy::*;
fn main(){
 for kind in 0..6 {
  let mut text = String::from("schema = 1\n[class.a]\ntier = \"background\"\n");
  for i in 0..200 { let keys = match kind {
            0 => format!("exe = \"*/program-{i}\""),
            1 => format!("comm = [\"prog-{i}\", \"*[0-9]x{i}\"]"),
            2 => format!("cmdline = \"* --job-{i} *\""),
            3 => format!("exe = \"whisper-*\", user = \"user-{i}\""),
            4 => format!("cgroup = \"/system.slice/unit-{i}.*\", parent = \"systemd\""),
            _ => format!("comm = \"prog-{i}\""),
  };
        text += &format!("[[rule]]\nclass = \"a\"\nmatch = {{ {keys} }}\n"); }
  let set=PolicySet::parse(&[Source{path:"x".into(),text}]).unwrap();
  let ps: Vec<ProcessFacts> = (0..10_000).map(|i| ProcessFacts {
            exe: Some(format!("/usr/lib/some/folder/server-{i}")),
            comm: format!("server-{i}"),
            cmdline: format!("/usr/lib/some/folder/server-{i} --port {i} --threads 4 --log info"),
            uid: i, user: Some("ann".into()), cgroup: Some("/system.slice/whisper.service".into()),
            parent: Some(ParentFacts { exe: Some("/usr/lib/systemd/systemd".into()), comm: "systemd".into() }),
        }).collect();
  let mut best=f64::MAX;
  for _ in 0..7 { let s=std::time::Instant::now(); let n=ps.iter().filter(|p| set.classify(p,&p.comm).is_some()).count(); assert_eq!(n,0); best=best.min(s.elapsed().as_nanos() as f64/2e6);}
  println!("kind {kind}: {best:.1} ns per rule");
 }
}
