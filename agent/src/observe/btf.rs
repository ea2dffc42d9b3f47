//! What the kernel says of its own types (`/sys/kernel/btf/vmlinux`): where a field lies and how
//! many arguments a tracepoint has. Reads only that; the format is in the kernel's
//! `Documentation/bpf/btf.rst`.

use std::ffi::CStr;

const MAGIC: u16 = 0xeb9f;
const HEADER_LEN: usize = 24;
const TYPE_LEN: usize = 12;

const KIND_PTR: u32 = 2;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_FUNC_PROTO: u32 = 13;

/// Anonymous structs within one another; far more than any kernel has.
const MAX_DEPTH: u32 = 8;

/// Why the kernel's types cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// Not BTF, or of another byte order.
    #[error("not BTF in this machine's byte order")]
    Magic,
    /// Ends in the middle of something.
    #[error("BTF is cut off at byte {0}")]
    Truncated(usize),
    /// A kind of type that this reader does not know, so that it cannot find the next one.
    #[error("BTF type {id} is of the unknown kind {kind}")]
    UnknownKind {
        /// Type.
        id: u32,
        /// Kind.
        kind: u32,
    },
    /// No such struct or field.
    #[error("the kernel's {structure} has no field {field}")]
    NoField {
        /// Struct.
        structure: String,
        /// Field.
        field: String,
    },
}

/// The kernel's types, borrowed from the file's bytes.
#[derive(Debug)]
pub struct KernelTypes<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type starts in `types`; type ids count from 1.
    starts: Vec<u32>,
}

/// Where a field lies.
#[derive(Clone, Copy)]
struct Place {
    /// From the start of the struct.
    bits: u32,
    /// Bits of a bit field; else 0.
    width: u32,
    /// Its type.
    target: u32,
}

/// Head of one type.
#[derive(Clone, Copy)]
struct Head {
    name: u32,
    info: u32,
    /// Size, or the type that it refers to.
    target: u32,
    /// Where what follows the head starts in `types`.
    body: usize,
}

impl Head {
    fn kind(self) -> u32 {
        (self.info >> 24) & 0x1f
    }

    fn entries(self) -> usize {
        (self.info & 0xffff) as usize
    }

    fn has_bitfields(self) -> bool {
        self.info >> 31 != 0
    }

    /// Bytes between the head and the next type.
    fn body_len(self) -> Option<usize> {
        Some(match self.kind() {
            KIND_PTR | KIND_TYPEDEF | 7 | 9..=12 | 16 | 18 => 0,
            1 | 14 | 17 => 4,
            3 => 12,
            KIND_STRUCT | KIND_UNION | 15 | 19 => 12 * self.entries(),
            6 | KIND_FUNC_PROTO => 8 * self.entries(),
            _ => return None,
        })
    }
}

impl<'a> KernelTypes<'a> {
    /// Reads the head of the file and where each type starts.
    ///
    /// # Errors
    /// [`BtfError`] where the bytes are not whole BTF.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let magic = bytes.get(..2).ok_or(BtfError::Truncated(bytes.len()))?;
        if magic != MAGIC.to_ne_bytes() {
            return Err(BtfError::Magic);
        }
        let header = |at| read_u32(bytes, at).map(|value| value as usize);
        let header_len = header(4)?.max(HEADER_LEN);
        let types = section(bytes, header_len, header(8)?, header(12)?)?;
        let strings = section(bytes, header_len, header(16)?, header(20)?)?;

        let mut this = Self { types, strings, starts: Vec::new() };
        let mut at = 0;
        while at < types.len() {
            let id = this.starts.len() as u32 + 1;
            let head = this.head_at(at)?;
            let body_len =
                head.body_len().ok_or(BtfError::UnknownKind { id, kind: head.kind() })?;
            // A section is at most 4 GiB long, as its length is 32 bits.
            this.starts.push(at as u32);
            at = head.body + body_len;
        }
        if at > types.len() {
            return Err(BtfError::Truncated(types.len()));
        }
        Ok(this)
    }

    /// Where a field lies in a struct, in bytes; fields of anonymous structs within count. A path
    /// (`se.sum_exec_runtime`) leads into structs within.
    ///
    /// # Errors
    /// [`BtfError::NoField`] where there is no such struct or field, or it is a bit field.
    pub fn field_offset(&self, structure: &str, path: &str) -> Result<u32, BtfError> {
        self.place(structure, path)
            .filter(|place| place.width == 0 && place.bits % 8 == 0)
            .map(|place| place.bits / 8)
            .ok_or_else(|| no_field(structure, path))
    }

    /// Where a field of one bit lies: its byte, and the bit within.
    ///
    /// # Errors
    /// [`BtfError::NoField`] where there is no such struct or field, or it is wider.
    pub fn bit(&self, structure: &str, field: &str) -> Result<(u32, u8), BtfError> {
        self.place(structure, field)
            .filter(|place| place.width == 1)
            // On a big-endian machine bits count from the other end.
            .map(|place| (place.bits / 8, place.bits % 8))
            .map(|(byte, bit)| (byte, if cfg!(target_endian = "big") { 7 - bit } else { bit }))
            .map(|(byte, bit)| (byte, 1 << bit))
            .ok_or_else(|| no_field(structure, field))
    }

    fn place(&self, structure: &str, path: &str) -> Option<Place> {
        self.named(KIND_STRUCT, structure).find_map(|head| {
            let mut place = Place { bits: 0, width: 0, target: 0 };
            let mut within = head;
            for (depth, field) in path.split('.').enumerate() {
                if depth > 0 {
                    within = self.structure(place.target)?;
                }
                place = self.field_place(within, field, place.bits, MAX_DEPTH)?;
            }
            Some(place)
        })
    }

    /// The struct or union that a type names.
    fn structure(&self, id: u32) -> Option<Head> {
        let mut head = self.head(id)?;
        for _ in 0..MAX_DEPTH {
            match head.kind() {
                KIND_STRUCT | KIND_UNION => return Some(head),
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST => head = self.head(head.target)?,
                _ => return None,
            }
        }
        None
    }

    /// How many arguments a tracepoint hands to its programs; nothing where the kernel has no
    /// such tracepoint.
    #[must_use]
    pub fn tracepoint_arguments(&self, tracepoint: &str) -> Option<usize> {
        let typedef = self.named(KIND_TYPEDEF, &format!("btf_trace_{tracepoint}")).next()?;
        let pointer = self.head(typedef.target)?;
        let function = self.head(pointer.target)?;
        // The first one is the probe's own data.
        (pointer.kind() == KIND_PTR && function.kind() == KIND_FUNC_PROTO)
            .then(|| function.entries().saturating_sub(1))
    }

    fn field_place(&self, head: Head, field: &str, base: u32, depth: u32) -> Option<Place> {
        (0..head.entries()).find_map(|index| {
            let at = head.body + index * TYPE_LEN;
            let name = read_u32(self.types, at).ok()?;
            let target = read_u32(self.types, at + 4).ok()?;
            let offset = read_u32(self.types, at + 8).ok()?;
            let (offset, width) =
                if head.has_bitfields() { (offset & 0xff_ffff, offset >> 24) } else { (offset, 0) };
            let bits = base.checked_add(offset)?;
            if name == 0 {
                let inner = self.head(target)?;
                let nested = depth > 0 && matches!(inner.kind(), KIND_STRUCT | KIND_UNION);
                return if nested { self.field_place(inner, field, bits, depth - 1) } else { None };
            }
            self.is_named(name, field).then_some(Place { bits, width, target })
        })
    }

    /// All types of a kind and name.
    fn named<'s>(&'s self, kind: u32, name: &'s str) -> impl Iterator<Item = Head> + 's {
        self.starts
            .iter()
            .filter_map(|&at| self.head_at(at as usize).ok())
            .filter(move |head| head.kind() == kind && self.is_named(head.name, name))
    }

    fn is_named(&self, offset: u32, name: &str) -> bool {
        self.strings
            .get(offset as usize..)
            .and_then(|rest| CStr::from_bytes_until_nul(rest).ok())
            .is_some_and(|found| found.to_bytes() == name.as_bytes())
    }

    fn head(&self, id: u32) -> Option<Head> {
        let at = *self.starts.get(id.checked_sub(1)? as usize)?;
        self.head_at(at as usize).ok()
    }

    fn head_at(&self, at: usize) -> Result<Head, BtfError> {
        Ok(Head {
            name: read_u32(self.types, at)?,
            info: read_u32(self.types, at + 4)?,
            target: read_u32(self.types, at + 8)?,
            body: at + TYPE_LEN,
        })
    }
}

fn no_field(structure: &str, field: &str) -> BtfError {
    BtfError::NoField { structure: structure.into(), field: field.into() }
}

fn section(bytes: &[u8], base: usize, offset: usize, len: usize) -> Result<&[u8], BtfError> {
    let cut_off = BtfError::Truncated(bytes.len());
    let Some(start) = base.checked_add(offset) else {
        return Err(cut_off);
    };
    let Some(end) = start.checked_add(len) else {
        return Err(cut_off);
    };
    bytes.get(start..end).ok_or(cut_off)
}

fn read_u32(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map(|chunk| u32::from_ne_bytes(*chunk))
        .ok_or(BtfError::Truncated(bytes.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A small kernel: `struct task_struct { int pid; struct { int tgid; }; int flag:1; }` and
    /// `typedef void (*btf_trace_tick)(void *, int)`.
    fn sample() -> Vec<u8> {
        let strings = b"\0task_struct\0pid\0tgid\0flag\0btf_trace_tick\0int\0";
        let name = |text: &str| {
            let text = format!("\0{text}\0");
            let at = strings.windows(text.len()).position(|w| w == text.as_bytes());
            at.expect("a string of the sample") as u32 + 1
        };
        let info = |kind: u32, entries: u32| kind << 24 | entries;
        let types = [
            // 1: int
            [name("int"), info(1, 0), 4].as_slice(),
            &[32],
            // 2: anonymous struct
            &[0, info(KIND_STRUCT, 1), 4],
            &[name("tgid"), 1, 0],
            // 3: task_struct, with bit fields
            &[name("task_struct"), info(KIND_STRUCT, 3) | 1 << 31, 12],
            &[name("pid"), 1, 0],
            &[0, 2, 32],
            &[name("flag"), 1, 1 << 24 | 64],
            // 4: the function, 5: the pointer, 6: the tracepoint
            &[0, info(KIND_FUNC_PROTO, 2), 0],
            &[0, 5, 0, 1],
            &[0, info(KIND_PTR, 0), 4],
            &[name("btf_trace_tick"), info(KIND_TYPEDEF, 0), 5],
        ]
        .concat();
        let types_len = 4 * types.len() as u32;
        let header = [HEADER_LEN as u32, 0, types_len, types_len, strings.len() as u32];
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        bytes.extend(header.iter().chain(&types).flat_map(|word| word.to_ne_bytes()));
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn fields_and_arguments_are_found() {
        let bytes = sample();
        let types = KernelTypes::parse(&bytes).unwrap();
        assert_eq!(types.field_offset("task_struct", "pid"), Ok(0));
        assert_eq!(types.field_offset("task_struct", "tgid"), Ok(4));
        assert_eq!(types.bit("task_struct", "flag"), Ok((8, 1)));
        assert!(types.bit("task_struct", "pid").is_err());
        assert!(types.field_offset("task_struct", "pid.x").is_err());
        assert_eq!(types.tracepoint_arguments("tick"), Some(1));
        assert_eq!(types.tracepoint_arguments("tock"), None);
    }

    #[test]
    fn what_is_not_there_is_named() {
        let bytes = sample();
        let types = KernelTypes::parse(&bytes).unwrap();
        for (structure, field) in [("task_struct", "flag"), ("task_struct", "x"), ("cred", "uid")] {
            let error = types.field_offset(structure, field).unwrap_err().to_string();
            assert!(error.contains(structure) && error.contains(field), "{error}");
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = sample();
        for len in 0..bytes.len() {
            assert!(KernelTypes::parse(&bytes[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn another_byte_order_is_refused() {
        let mut bytes = sample();
        bytes.swap(0, 1);
        assert_eq!(KernelTypes::parse(&bytes).unwrap_err(), BtfError::Magic);
    }

    #[test]
    fn a_struct_within_itself_ends() {
        let mut bytes = sample();
        // The anonymous struct's member becomes anonymous, of the struct's own type.
        let member = HEADER_LEN + 16 + TYPE_LEN;
        bytes[member..member + 8].copy_from_slice(&[0, 0, 0, 0, 2, 0, 0, 0]);
        let types = KernelTypes::parse(&bytes).unwrap();
        assert!(types.field_offset("task_struct", "tgid").is_err());
    }

    proptest! {
        #[test]
        fn garbage_does_not_panic(noise in prop::collection::vec((0usize..400, any::<u8>()), 0..40)) {
            let mut bytes = sample();
            let len = bytes.len();
            for (at, byte) in noise {
                bytes[at % len] = byte;
            }
            if let Ok(types) = KernelTypes::parse(&bytes) {
                let _ = types.field_offset("task_struct", "tgid");
                let _ = types.tracepoint_arguments("tick");
            }
        }

        #[test]
        fn random_bytes_do_not_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if bytes.len() >= 2 {
                bytes[..2].copy_from_slice(&MAGIC.to_ne_bytes());
            }
            let _ = KernelTypes::parse(&bytes);
        }
    }
}
