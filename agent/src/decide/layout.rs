//! Which control groups the agent makes, and what each of them needs.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::groups::GroupTarget;
use crate::act::{Lever, Value};

/// Where the agent's own groups lie where nobody else manages the hierarchy.
const TOP: &str = "/downbeat.slice";

/// The path of a class's group, and what it and those above it need.
#[must_use]
pub fn lay_out(
    place: &Arc<str>,
    class: &str,
    target: &GroupTarget,
    wanted: &mut BTreeMap<Arc<str>, Vec<Value>>,
) -> Arc<str> {
    let name: String =
        class.chars().map(|c| if c == '/' || c.is_control() { '_' } else { c }).collect();
    let controllers = target.controllers();
    let mut pass_on = |group: &Arc<str>, is_own: bool| {
        let values = wanted.entry(Arc::clone(group)).or_default();
        if is_own && !values.contains(&Value::Folder(true)) {
            values.insert(0, Value::Folder(true));
        }
        let mut all = controllers.clone();
        if let Some(Value::Controllers(others)) =
            values.iter().find(|value| value.lever() == Lever::Controllers)
        {
            all.extend(others.iter().cloned());
        }
        values.retain(|value| value.lever() != Lever::Controllers);
        if !all.is_empty() {
            values.push(Value::Controllers(all));
        }
    };
    // A partition has to lie in a group that is one itself, which the root always is.
    let at_top = &**place == TOP;
    let path: Arc<str> = if at_top && target.partition {
        pass_on(&"/".into(), false);
        format!("/downbeat-{name}").into()
    } else {
        if at_top {
            pass_on(&"/".into(), false);
        }
        pass_on(place, at_top);
        format!("{place}/{name}").into()
    };
    let values = wanted.entry(Arc::clone(&path)).or_default();
    values.push(Value::Folder(true));
    values.extend(target.values.iter().cloned());
    path
}
