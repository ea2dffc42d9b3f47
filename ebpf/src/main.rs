//! downbeat's kernel programs: how long managed threads wait for a CPU, and which processes and
//! threads come, go and change their names.
//!
//! The loader and the layouts are in `agent/src/observe/kernel` and `ebpf/abi`. Programs
//! attach with tp_btf, so each argument's type is known to the verifier and a field is read by a
//! plain load; each has a twin on a raw tracepoint for kernels that do not tell the types.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    reason = "the attribute puts a function of its own, without the comment, beside each program"
)]
#![feature(asm_experimental_arch)]

mod atomic;
mod blame;
mod events;
mod gate;
mod interrupts;
mod jobs;
mod lifecycle;
mod lineage;
mod maps;
mod occupancy;
mod opaque;
mod span;
mod task;
mod wait;

use aya_ebpf::macros::{btf_tracepoint, raw_tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, RawTracePointContext};

use crate::maps::SWITCH_HAS_STATE;
use crate::task::{Structure, Task};
use crate::wait::RUNNABLE;

/// The state in which the thread that a `sched_switch` tells of leaves its CPU.
macro_rules! state {
    ($ctx:ident, $prev:ident) => {{
        let preempted: u64 = $ctx.arg(0);
        // The verifier knows the global's value and drops the branch that the kernel lacks.
        let state: u64 =
            if SWITCH_HAS_STATE.load() != 0 { $ctx.arg(3) } else { $prev.state().into() };
        if preempted & 0xff != 0 { RUNNABLE } else { state & 0xffff_ffff }
    }};
}

/// Each program twice: for kernels that tell the types of a tracepoint's arguments (tp_btf), and
/// for those that do not (raw tracepoints, whose arguments are the same).
macro_rules! programs {
    ($($tracepoint:literal, $typed:ident, $raw:ident => |$ctx:ident, $at:ident| $body:block)*) => { $(
        #[btf_tracepoint(function = $tracepoint)]
        pub fn $typed($ctx: BtfTracePointContext) -> i32 {
            const TYPED: bool = true;
            let $at = |at| Structure::new(at, TYPED);
            $body;
            0
        }

        #[raw_tracepoint(tracepoint = $tracepoint)]
        pub fn $raw($ctx: RawTracePointContext) -> i32 {
            const TYPED: bool = false;
            let $at = |at| Structure::new(at, TYPED);
            $body;
            0
        }
    )* };
}

programs! {
    // `sched_waking(struct task_struct *p)`, in the context of whoever wakes
    "sched_waking", sched_waking, raw_sched_waking => |ctx, at| { wait::waking(Task(at(ctx.arg(0)))); }

    // `sched_wakeup_new(struct task_struct *p)`
    "sched_wakeup_new", sched_wakeup_new, raw_sched_wakeup_new => |ctx, at| { wait::born(Task(at(ctx.arg(0)))); }

    // `sched_migrate_task(struct task_struct *p, int dest_cpu)`
    "sched_migrate_task", sched_migrate_task, raw_sched_migrate_task => |ctx, at| { wait::migrated(Task(at(ctx.arg(0))), ctx.arg(1)); }

    // `sched_switch(bool preempt, struct task_struct *prev, struct task_struct *next, unsigned int
    // prev_state)`; the last argument since kernel 5.18
    "sched_switch", sched_switch, raw_sched_switch => |ctx, at| { let prev = Task(at(ctx.arg(1)));
        wait::switched::<TYPED>(ctx.arg(1), ctx.arg(2), || state!(ctx, prev)); }

    // `sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`
    "sched_process_exec", sched_process_exec, raw_sched_process_exec => |ctx, at| { lifecycle::exec(&ctx, Task(at(ctx.arg(0))), ctx.arg(1)); }

    // `sched_process_fork(struct task_struct *parent, struct task_struct *child)`, threads included
    "sched_process_fork", sched_process_fork, raw_sched_process_fork => |ctx, at| { lifecycle::fork(&ctx, Task(at(ctx.arg(0))), Task(at(ctx.arg(1)))); }

    // `sched_process_exit(struct task_struct *p)`, once per thread; one more argument since 6.16
    "sched_process_exit", sched_process_exit, raw_sched_process_exit => |ctx, at| { lifecycle::exit(&ctx, Task(at(ctx.arg(0)))); }

    // The same two once more, apart from the rest: they outlive the agent.
    "sched_process_fork", lineage_fork, raw_lineage_fork => |ctx, at| { lineage::fork(Task(at(ctx.arg(0))), Task(at(ctx.arg(1)))); }

    "sched_process_exit", lineage_exit, raw_lineage_exit => |ctx, at| { lineage::exit(Task(at(ctx.arg(0)))); }

    // `task_rename(struct task_struct *task, const char *comm)`
    "task_rename", task_rename, raw_task_rename => |ctx, at| { lifecycle::rename(&ctx, Task(at(ctx.arg(0))), ctx.arg(1)); }

    // `irq_handler_entry(int irq, struct irqaction *action)`
    "irq_handler_entry", irq_handler_entry, raw_irq_handler_entry => |_ctx, _at| { interrupts::hard_begins(); }

    // `irq_handler_exit(int irq, struct irqaction *action, int ret)`
    "irq_handler_exit", irq_handler_exit, raw_irq_handler_exit => |ctx, _at| { interrupts::hard_ends(ctx.arg(0)); }

    // `softirq_entry(unsigned int vec_nr)`
    "softirq_entry", softirq_entry, raw_softirq_entry => |ctx, _at| { interrupts::soft_begins(ctx.arg(0)); }

    // `softirq_exit(unsigned int vec_nr)`
    "softirq_exit", softirq_exit, raw_softirq_exit => |ctx, _at| { interrupts::soft_ends(ctx.arg(0)); }

    // `hrtimer_expire_entry(struct hrtimer *hrtimer, ktime_t *now)`
    "hrtimer_expire_entry", hrtimer_expire_entry, raw_hrtimer_expire_entry => |ctx, at| { interrupts::timer_begins(at(ctx.arg(0)), ctx.arg(1)); }

    // `hrtimer_expire_exit(struct hrtimer *hrtimer)`
    "hrtimer_expire_exit", hrtimer_expire_exit, raw_hrtimer_expire_exit => |_ctx, _at| { interrupts::timer_ends(); }

    // `mm_vmscan_direct_reclaim_begin(int order, gfp_t gfp_flags)`
    "mm_vmscan_direct_reclaim_begin", mm_vmscan_direct_reclaim_begin, raw_mm_vmscan_direct_reclaim_begin => |_ctx, _at| { jobs::reclaims(true, interrupts::now()); }

    // `mm_vmscan_direct_reclaim_end(unsigned long nr_reclaimed)`
    "mm_vmscan_direct_reclaim_end", mm_vmscan_direct_reclaim_end, raw_mm_vmscan_direct_reclaim_end => |_ctx, _at| { jobs::reclaims(false, interrupts::now()); }

    // `mm_vmscan_memcg_reclaim_begin(int order, gfp_t gfp_flags)`
    "mm_vmscan_memcg_reclaim_begin", mm_vmscan_memcg_reclaim_begin, raw_mm_vmscan_memcg_reclaim_begin => |_ctx, _at| { jobs::reclaims(true, interrupts::now()); }

    // `mm_vmscan_memcg_reclaim_end(unsigned long nr_reclaimed)`
    "mm_vmscan_memcg_reclaim_end", mm_vmscan_memcg_reclaim_end, raw_mm_vmscan_memcg_reclaim_end => |_ctx, _at| { jobs::reclaims(false, interrupts::now()); }
}

/// The verifier refuses a program that can reach this: none can.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Lets the programs call helpers that are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
