//! Tensors of the Open Inference Protocol (KServe v2): types, shapes and sizes, checked before
//! anything is allocated for them.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Dimensions of a tensor: more than any model has, and few enough to print.
pub const MAX_DIMENSIONS: usize = 16;

/// Type of a tensor's elements, with the protocol's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum DataType {
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned, 8 bits.
    Uint8,
    /// Unsigned, 16 bits.
    Uint16,
    /// Unsigned, 32 bits.
    Uint32,
    /// Unsigned, 64 bits.
    Uint64,
    /// Signed, 8 bits.
    Int8,
    /// Signed, 16 bits.
    Int16,
    /// Signed, 32 bits.
    Int32,
    /// Signed, 64 bits.
    Int64,
    /// IEEE 754, 16 bits.
    Fp16,
    /// IEEE 754, 32 bits.
    Fp32,
    /// IEEE 754, 64 bits.
    Fp64,
    /// The upper half of an FP32.
    Bf16,
    /// Byte strings, each behind its length (32 bits, little endian).
    Bytes,
}

impl DataType {
    /// Every type.
    pub const ALL: [Self; 14] = [
        Self::Bool,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Fp16,
        Self::Fp32,
        Self::Fp64,
        Self::Bf16,
        Self::Bytes,
    ];

    /// By the protocol's name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }

    /// The protocol's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bf16 => "BF16",
            Self::Bytes => "BYTES",
        }
    }

    /// Bytes of one element; nothing for byte strings, which have a length each.
    #[must_use]
    pub fn size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }
}

/// One tensor: little endian, row-major, as the protocol's raw contents. The data may lie in memory
/// shared with another process; it never changes while it is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name in the model.
    pub name: String,
    /// Of its elements.
    pub datatype: DataType,
    /// Elements per dimension, none negative; empty for a single value.
    pub shape: Vec<u64>,
    /// Its elements.
    pub data: Bytes,
}

/// A tensor as a model declares it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorSpec {
    /// Name.
    pub name: String,
    /// Of its elements.
    pub datatype: DataType,
    /// Elements per dimension; -1 where any number will do.
    pub shape: Vec<i64>,
}

/// Why a tensor is not what it says or should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// Too many dimensions.
    #[error("`{name}` has {dimensions} dimensions; at most {MAX_DIMENSIONS} are taken")]
    Dimensions {
        /// The tensor.
        name: String,
        /// How many.
        dimensions: usize,
    },
    /// A negative dimension, or a product beyond 64 bits.
    #[error(
        "`{name}` has shape {shape:?}; every dimension is 0 or more, and their product fits in 64 bits"
    )]
    Shape {
        /// The tensor.
        name: String,
        /// What it says.
        shape: Vec<i64>,
    },
    /// Shape and data disagree.
    #[error("`{name}` has {is} bytes; {datatype} with shape {shape:?} has {wanted}", datatype = datatype.name())]
    Size {
        /// The tensor.
        name: String,
        /// Of its elements.
        datatype: DataType,
        /// What it says.
        shape: Vec<u64>,
        /// Bytes that there are.
        is: u64,
        /// Bytes that there should be.
        wanted: u64,
    },
    /// Byte strings that do not add up.
    #[error(
        "`{name}` is BYTES with {wanted} strings, and its data end within or hold more than these; each is a length of 32 bits, little endian, and that many bytes"
    )]
    Strings {
        /// The tensor.
        name: String,
        /// How many there should be.
        wanted: u64,
    },
}

/// A shape as it came, checked: nothing negative, not too many dimensions, no overflow.
///
/// # Errors
/// [`TensorError::Dimensions`], [`TensorError::Shape`].
pub fn checked_shape(name: &str, shape: &[i64]) -> Result<Vec<u64>, TensorError> {
    if shape.len() > MAX_DIMENSIONS {
        return Err(TensorError::Dimensions { name: name.into(), dimensions: shape.len() });
    }
    let wrong = || TensorError::Shape { name: name.into(), shape: shape.to_vec() };
    let sizes: Result<Vec<u64>, _> = shape.iter().map(|&size| u64::try_from(size)).collect();
    let sizes = sizes.map_err(|_| wrong())?;
    match elements(&sizes) {
        Some(_) => Ok(sizes),
        None => Err(wrong()),
    }
}

/// Elements of a shape; nothing where their number does not fit.
#[must_use]
pub fn elements(shape: &[u64]) -> Option<u64> {
    // A 0 anywhere makes it empty, however large the others are.
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(1_u64, |product, &size| product.checked_mul(size))
}

/// Bytes that type and shape say; nothing for byte strings.
///
/// # Errors
/// [`TensorError::Shape`] for a shape whose size in bytes does not fit in 64 bits.
pub(crate) fn size(
    name: &str,
    datatype: DataType,
    shape: &[u64],
) -> Result<Option<u64>, TensorError> {
    let bytes = elements(shape).and_then(|elements| match datatype.size() {
        None => Some(None),
        Some(size) => elements.checked_mul(size as u64).map(Some),
    });
    bytes.ok_or_else(|| TensorError::Shape {
        name: name.to_owned(),
        shape: shape.iter().map(|&size| i64::try_from(size).unwrap_or(i64::MAX)).collect(),
    })
}

impl Tensor {
    /// Whether the data are as long as type and shape say.
    ///
    /// # Errors
    /// [`TensorError::Size`], [`TensorError::Strings`], or [`TensorError::Shape`] for a shape whose
    /// size in bytes does not fit in 64 bits.
    pub fn check(&self) -> Result<(), TensorError> {
        let Some(wanted) = size(&self.name, self.datatype, &self.shape)? else {
            return self.check_strings(elements(&self.shape).unwrap_or(0));
        };
        if self.data.len() as u64 == wanted {
            return Ok(());
        }
        Err(TensorError::Size {
            name: self.name.clone(),
            datatype: self.datatype,
            shape: self.shape.clone(),
            is: self.data.len() as u64,
            wanted,
        })
    }

    fn check_strings(&self, wanted: u64) -> Result<(), TensorError> {
        let mut strings = Strings(&self.data);
        let whole = strings.by_ref().count() as u64;
        if whole == wanted && strings.0.is_empty() {
            return Ok(());
        }
        Err(TensorError::Strings { name: self.name.clone(), wanted })
    }

    /// The strings of a BYTES tensor; those of a malformed one up to where it breaks.
    pub fn strings(&self) -> impl Iterator<Item = &[u8]> {
        Strings(&self.data)
    }
}

/// Takes one string after another; what is left when it ends is malformed.
struct Strings<'a>(&'a [u8]);

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (string, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tensor(datatype: DataType, shape: &[u64], data: &'static [u8]) -> Tensor {
        Tensor { name: "x".into(), datatype, shape: shape.to_vec(), data: Bytes::from_static(data) }
    }

    #[test]
    fn names_are_the_protocols() {
        for datatype in DataType::ALL {
            assert_eq!(DataType::parse(datatype.name()), Some(datatype));
        }
        assert_eq!(DataType::parse("fp32"), None);
    }

    #[test]
    fn shapes_are_checked_before_anything_is_allocated() {
        assert_eq!(checked_shape("x", &[2, 3]), Ok(vec![2, 3]));
        assert_eq!(checked_shape("x", &[]), Ok(vec![]));
        assert!(matches!(checked_shape("x", &[2, -1]), Err(TensorError::Shape { .. })));
        assert!(matches!(checked_shape("x", &[i64::MAX, 3]), Err(TensorError::Shape { .. })));
        assert!(matches!(checked_shape("x", &[1; 17]), Err(TensorError::Dimensions { .. })));
        assert_eq!(checked_shape("x", &[i64::MAX, i64::MAX, 0]).map(|s| s.len()), Ok(3));
    }

    #[test]
    fn data_are_as_long_as_type_and_shape_say() {
        assert_eq!(tensor(DataType::Fp32, &[2], &[0; 8]).check(), Ok(()));
        let short = tensor(DataType::Fp32, &[2], &[0; 7]).check().unwrap_err();
        assert_eq!(short.to_string(), "`x` has 7 bytes; FP32 with shape [2] has 8");
        let huge = tensor(DataType::Fp64, &[u64::MAX / 2], &[]).check();
        assert!(matches!(huge, Err(TensorError::Shape { .. })));
    }

    #[test]
    fn strings_add_up() {
        let two = b"\x02\0\0\0ab\0\0\0\0";
        let found = tensor(DataType::Bytes, &[2], two);
        assert_eq!(found.check(), Ok(()));
        assert_eq!(found.strings().collect::<Vec<_>>(), [b"ab".as_slice(), b""]);
        for (shape, data) in
            [(3, two.as_slice()), (1, two), (1, b"\xff\xff\xff\xffab"), (1, b"\x01\0")]
        {
            let wrong = Tensor {
                data: Bytes::copy_from_slice(data),
                ..tensor(DataType::Bytes, &[shape], b"")
            };
            assert!(matches!(wrong.check(), Err(TensorError::Strings { .. })), "{shape} {data:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_and_no_shape_panic(shape: Vec<i64>, data: Vec<u8>, which in 0..14_usize) {
            if let Ok(shape) = checked_shape("x", &shape) {
                let datatype = DataType::ALL[which];
                let tensor = Tensor { name: "x".into(), datatype, shape, data: data.into() };
                let _ = tensor.check();
                let _ = tensor.strings().count();
            }
        }
    }
}
