//! downbeat's kernel programs: how long managed threads wait for a CPU, and which processes and
//! threads come, go and change their names.
//!
//! The loader and the layouts are in `agent/src/observe/kernel` and `ebpf/abi`. All programs
//! attach with tp_btf, so each argument's type is known to the verifier and a field is read by a
//! plain load.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    reason = "the attribute puts a function of its own, without the comment, beside each program"
)]
#![feature(asm_experimental_arch)]

mod atomic;
mod events;
mod gate;
mod lifecycle;
mod maps;
mod task;
mod wait;

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;

use crate::task::Task;

/// `sched_wakeup(struct task_struct *p)`
#[btf_tracepoint(function = "sched_wakeup")]
pub fn sched_wakeup(ctx: BtfTracePointContext) -> i32 {
    wait::woken(Task::argument(&ctx, 0));
    0
}

/// `sched_wakeup_new(struct task_struct *p)`
#[btf_tracepoint(function = "sched_wakeup_new")]
pub fn sched_wakeup_new(ctx: BtfTracePointContext) -> i32 {
    wait::woken(Task::argument(&ctx, 0));
    0
}

/// `sched_switch(bool preempt, struct task_struct *prev, struct task_struct *next, unsigned int
/// prev_state)`; the last argument since kernel 5.18
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    wait::switched(&ctx, Task::argument(&ctx, 1), Task::argument(&ctx, 2));
    0
}

/// `sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`
#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    lifecycle::exec(&ctx, Task::argument(&ctx, 0), ctx.arg(1));
    0
}

/// `sched_process_fork(struct task_struct *parent, struct task_struct *child)`, threads included
#[btf_tracepoint(function = "sched_process_fork")]
pub fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    lifecycle::fork(&ctx, Task::argument(&ctx, 0), Task::argument(&ctx, 1));
    0
}

/// `sched_process_exit(struct task_struct *p)`, once per thread; one more argument since 6.16
#[btf_tracepoint(function = "sched_process_exit")]
pub fn sched_process_exit(ctx: BtfTracePointContext) -> i32 {
    lifecycle::exit(&ctx, Task::argument(&ctx, 0));
    0
}

/// `task_rename(struct task_struct *task, const char *comm)`
#[btf_tracepoint(function = "task_rename")]
pub fn task_rename(ctx: BtfTracePointContext) -> i32 {
    lifecycle::rename(&ctx, Task::argument(&ctx, 0), ctx.arg(1));
    0
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
