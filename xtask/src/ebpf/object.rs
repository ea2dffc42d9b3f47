//! The compiled object: make it small, and tell how two of them differ.

use std::collections::BTreeMap;

use anyhow::Context;
use object::build::elf::{Builder, SectionData};
use object::read::elf::ElfFile64;
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionKind};

/// Bytes of one BPF instruction.
const INSTRUCTION: usize = 8;

/// One program of an object.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) name: String,
    pub(super) instructions: usize,
}

/// The object without DWARF: the kernel reads BTF.
pub(super) fn strip(object: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut builder = Builder::read(object).context("reading the built object")?;
    let is_debug = |name: &[u8]| name.starts_with(b".debug") || name.starts_with(b".rel.debug");
    for section in &mut builder.sections {
        section.delete = is_debug(&section.name);
    }
    builder.delete_orphans();
    // LLVM keeps the names of sections and symbols in one table; the builder wants two.
    if !builder.sections.iter().any(|section| matches!(section.data, SectionData::SectionString)) {
        let names = builder.sections.add();
        names.name = b".shstrtab".as_slice().into();
        names.sh_type = object::elf::SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
    let mut stripped = Vec::new();
    builder.write(&mut stripped).context("writing the object")?;
    Ok(stripped)
}

/// The programs, in the object's order.
pub(super) fn programs(object: &[u8]) -> anyhow::Result<Vec<Program>> {
    let file = parse(object)?;
    let mut programs = Vec::new();
    for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
        let name = section.name()?.to_owned();
        programs.push(Program { name, instructions: section.data()?.len() / INSTRUCTION });
    }
    Ok(programs)
}

/// What one section makes the kernel run or read.
#[derive(Debug, PartialEq, Eq)]
struct Content {
    bytes: Vec<u8>,
    /// Offset, and name and place in it of what is referred to.
    relocations: Vec<(u64, String)>,
}

/// The first difference that the kernel would see, in words.
pub(super) fn difference(committed: &[u8], built: &[u8]) -> anyhow::Result<Option<String>> {
    let committed = contents(committed).context("the committed object")?;
    let mut built = contents(built).context("the built object")?;
    for (name, old) in &committed {
        let Some(new) = built.remove(name) else {
            return Ok(Some(format!("section {name} is not in the source any more")));
        };
        if *old != new {
            return Ok(Some(format!("section {name} differs {}", place(old, &new))));
        }
    }
    Ok(built.keys().next().map(|name| format!("section {name} is new")))
}

fn place(old: &Content, new: &Content) -> String {
    if old.bytes.len() != new.bytes.len() {
        let instructions = |content: &Content| content.bytes.len() / INSTRUCTION;
        return format!("({} instructions, from source {})", instructions(old), instructions(new));
    }
    let differs = old.bytes.iter().zip(&new.bytes).position(|(old, new)| old != new);
    match differs {
        Some(at) => format!("at instruction {}", at / INSTRUCTION),
        None => "in what it refers to".to_owned(),
    }
}

/// Everything but debug information, by section.
fn contents(object: &[u8]) -> anyhow::Result<BTreeMap<String, Content>> {
    let file = parse(object)?;
    let mut contents = BTreeMap::new();
    for section in file.sections() {
        let name = section.name()?;
        let counts = section.kind() == SectionKind::Text
            || ["license", "maps"].contains(&name)
            || name.starts_with(".rodata");
        if !counts {
            continue;
        }
        let mut relocations = Vec::new();
        for (offset, relocation) in section.relocations() {
            let RelocationTarget::Symbol(index) = relocation.target() else {
                continue;
            };
            let symbol = file.symbol_by_index(index)?;
            // A section's own symbol has no name, and a local one a name that may change.
            let section = match symbol.section_index() {
                Some(index) => file.section_by_index(index)?.name()?.to_owned(),
                None => symbol.name()?.to_owned(),
            };
            relocations.push((offset, format!("{section}+{}", symbol.address())));
        }
        let content = Content { bytes: section.data()?.to_vec(), relocations };
        contents.insert(name.to_owned(), content);
    }
    Ok(contents)
}

fn parse(object: &[u8]) -> anyhow::Result<ElfFile64<'_>> {
    ElfFile64::parse(object).context("not a BPF object")
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMITTED: &[u8] = include_bytes!("../../../ebpf/object/downbeat.bpf.o");

    #[test]
    fn the_committed_object_equals_itself_and_holds_every_program() {
        assert_eq!(difference(COMMITTED, COMMITTED).unwrap(), None);
        let programs = programs(COMMITTED).unwrap();
        assert!(programs.iter().any(|program| program.name == "tp_btf/sched_switch"));
    }

    #[test]
    fn stripping_what_is_stripped_keeps_every_instruction() {
        let again = strip(COMMITTED).unwrap();
        assert_eq!(difference(COMMITTED, &again).unwrap(), None);
    }

    #[test]
    fn one_changed_instruction_is_found_and_named() {
        let file = parse(COMMITTED).unwrap();
        let section = file.section_by_name("tp_btf/sched_switch").unwrap();
        let (start, _) = section.file_range().unwrap();
        let mut changed = COMMITTED.to_vec();
        changed[start as usize + 3 * INSTRUCTION] ^= 1;
        let said = difference(COMMITTED, &changed).unwrap().unwrap();
        assert_eq!(said, "section tp_btf/sched_switch differs at instruction 3");
    }
}
