//! A tensor's elements as JSON: read into the raw contents that models take, and written from
//! them. Nothing here is as large as more than four times the JSON.

use std::fmt;

use bytes::Bytes;
use downbeat_link::{DataType, MAX_DIMENSIONS, Tensor};
use half::{bf16, f16};
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use serde::ser::{SerializeSeq, Serializer};

/// Reads a flat or nested list of elements of one type.
pub struct Elements(pub DataType);

impl<'de> DeserializeSeed<'de> for Elements {
    type Value = Bytes;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Bytes, D::Error> {
        let mut collected = Collected::new(self.0);
        deserializer.deserialize_seq(Level { collected: &mut collected, depth: 1 })?;
        Ok(collected.raw.into())
    }
}

/// What was read so far.
struct Collected {
    datatype: DataType,
    raw: Vec<u8>,
    count: usize,
    /// How many elements the first list of each depth had; all of that depth have as many.
    widths: Vec<usize>,
    /// The depth in which the values stand.
    leaf: Option<usize>,
}

impl Collected {
    fn new(datatype: DataType) -> Self {
        Self { datatype, raw: Vec::new(), count: 0, widths: Vec::new(), leaf: None }
    }

    fn leaf<E: Error>(&mut self, depth: usize) -> Result<(), E> {
        self.count += 1;
        if *self.leaf.get_or_insert(depth) == depth {
            return Ok(());
        }
        Err(E::custom("`data` mixes values and lists"))
    }

    fn refused<E: Error>(&self, value: impl fmt::Display) -> E {
        let (index, name) = (self.count.saturating_sub(1), self.datatype.name());
        E::custom(format_args!("element {index} of `data` is {value}, which is no {name}"))
    }

    fn integer<E: Error>(&mut self, value: i128) -> Result<(), E> {
        macro_rules! put {
            ($kind:ty) => {
                match <$kind>::try_from(value) {
                    Ok(value) => self.raw.extend(value.to_le_bytes()),
                    Err(_) => return Err(self.refused(value)),
                }
            };
        }
        match self.datatype {
            DataType::Bool => match value {
                0 | 1 => self.raw.push(u8::from(value == 1)),
                _ => return Err(self.refused(value)),
            },
            DataType::Uint8 => put!(u8),
            DataType::Uint16 => put!(u16),
            DataType::Uint32 => put!(u32),
            DataType::Uint64 => put!(u64),
            DataType::Int8 => put!(i8),
            DataType::Int16 => put!(i16),
            DataType::Int32 => put!(i32),
            DataType::Int64 => put!(i64),
            DataType::Fp16 | DataType::Fp32 | DataType::Fp64 | DataType::Bf16 => {
                return self.float(value as f64);
            }
            DataType::Bytes => return Err(self.refused(value)),
        }
        Ok(())
    }

    fn float<E: Error>(&mut self, value: f64) -> Result<(), E> {
        // JSON has no infinity: a finite number that becomes one is too large for the type.
        let finite = match self.datatype {
            DataType::Fp64 => {
                self.raw.extend(value.to_le_bytes());
                true
            }
            DataType::Fp32 => {
                let value = value as f32;
                self.raw.extend(value.to_le_bytes());
                value.is_finite()
            }
            DataType::Fp16 => {
                let value = f16::from_f64(value);
                self.raw.extend(value.to_le_bytes());
                value.is_finite()
            }
            DataType::Bf16 => {
                let value = bf16::from_f64(value);
                self.raw.extend(value.to_le_bytes());
                value.is_finite()
            }
            // Whole numbers may be written as 1.0 or 1e3, as long as no digit was lost.
            _ if value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 => {
                return self.integer(value as i128);
            }
            _ => return Err(self.refused(value)),
        };
        if finite { Ok(()) } else { Err(self.refused(value)) }
    }
}

/// One list, in its depth.
struct Level<'a> {
    collected: &'a mut Collected,
    depth: usize,
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.collected.datatype.name();
        write!(f, "a list of {name} elements, flat or nested by rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Self { collected, depth } = self;
        if depth > MAX_DIMENSIONS {
            return Err(A::Error::custom(format_args!(
                "`data` is nested deeper than {MAX_DIMENSIONS} lists"
            )));
        }
        let mut width = 0;
        while list.next_element_seed(Item { collected, depth })?.is_some() {
            width += 1;
        }
        match collected.widths.get(depth - 1) {
            None => {
                // An inner list ends before the outer one, so places are made for both.
                collected.widths.resize(depth, usize::MAX);
                collected.widths[depth - 1] = width;
            }
            Some(&usize::MAX) => collected.widths[depth - 1] = width,
            Some(&first) if first != width => {
                return Err(A::Error::custom(format_args!(
                    "`data` has a row of {width} elements beside one of {first}"
                )));
            }
            Some(_) => {}
        }
        Ok(())
    }
}

/// An element of a list: a value, or a list of the next depth.
struct Item<'a> {
    collected: &'a mut Collected,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Item<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Item<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hint = match self.collected.datatype {
            DataType::Bool => "true or false",
            DataType::Bytes => "a string",
            DataType::Fp16 | DataType::Fp32 | DataType::Fp64 | DataType::Bf16 => {
                "a number; NaN and infinities travel as binary data only"
            }
            _ => "a whole number",
        };
        write!(f, "a {} element: {hint}", self.collected.datatype.name())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.collected.leaf(self.depth)?;
        match self.collected.datatype {
            DataType::Bool => self.collected.raw.push(u8::from(value)),
            _ => return Err(self.collected.refused(value)),
        }
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.collected.leaf(self.depth)?;
        self.collected.integer(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.collected.leaf(self.depth)?;
        self.collected.integer(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.collected.leaf(self.depth)?;
        self.collected.float(value)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.collected.leaf(self.depth)?;
        if self.collected.datatype != DataType::Bytes {
            return Err(self.collected.refused("a string"));
        }
        let length = u32::try_from(value.len())
            .map_err(|_| E::custom("a string of `data` is longer than 4 GiB"))?;
        self.collected.raw.extend(length.to_le_bytes());
        self.collected.raw.extend(value.as_bytes());
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        Level { collected: self.collected, depth: self.depth + 1 }.visit_seq(list)
    }
}

/// Why a tensor cannot be written as JSON.
pub fn unwritable(tensor: &Tensor) -> Option<String> {
    let name = &tensor.name;
    (tensor.datatype == DataType::Bytes
        && tensor.strings().any(|string| std::str::from_utf8(string).is_err()))
    .then(|| {
        format!(
            "output `{name}` has bytes that are no UTF-8 text, which JSON cannot carry; ask for it \
             with `binary_data`"
        )
    })
}

/// Writes the elements of a tensor that is as long as its type and shape say, flat. What is not
/// finite becomes `null`.
pub fn write<S: Serializer>(tensor: &Tensor, serializer: S) -> Result<S::Ok, S::Error> {
    let raw = &tensor.data[..];
    macro_rules! numbers {
        ($kind:ty) => {
            serializer.collect_seq(raw.as_chunks().0.iter().map(|it| <$kind>::from_le_bytes(*it)))
        };
    }
    match tensor.datatype {
        DataType::Bool => serializer.collect_seq(raw.iter().map(|byte| *byte != 0)),
        DataType::Uint8 => numbers!(u8),
        DataType::Uint16 => numbers!(u16),
        DataType::Uint32 => numbers!(u32),
        DataType::Uint64 => numbers!(u64),
        DataType::Int8 => numbers!(i8),
        DataType::Int16 => numbers!(i16),
        DataType::Int32 => numbers!(i32),
        DataType::Int64 => numbers!(i64),
        DataType::Fp32 => numbers!(f32),
        DataType::Fp64 => numbers!(f64),
        DataType::Fp16 => serializer
            .collect_seq(raw.as_chunks().0.iter().map(|it| f16::from_le_bytes(*it).to_f32())),
        DataType::Bf16 => serializer
            .collect_seq(raw.as_chunks().0.iter().map(|it| bf16::from_le_bytes(*it).to_f32())),
        DataType::Bytes => {
            let mut list = serializer.serialize_seq(None)?;
            for string in tensor.strings() {
                list.serialize_element(&String::from_utf8_lossy(string))?;
            }
            list.end()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(datatype: DataType, json: &str) -> Result<Bytes, String> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        Elements(datatype).deserialize(&mut deserializer).map_err(|error| error.to_string())
    }

    fn written(datatype: DataType, data: Bytes) -> String {
        let tensor = Tensor { name: "y".into(), datatype, shape: vec![], data };
        let mut json = Vec::new();
        write(&tensor, &mut serde_json::Serializer::new(&mut json)).unwrap();
        String::from_utf8(json).unwrap()
    }

    #[test]
    fn every_type_comes_back_as_it_went() {
        for datatype in DataType::ALL {
            let json = match datatype {
                DataType::Bool => "[true,false]",
                DataType::Bytes => r#"["a","","\u00e4\"\n"]"#,
                DataType::Uint64 => "[0,18446744073709551615]",
                DataType::Int64 => "[-9223372036854775808,9223372036854775807]",
                DataType::Fp16 | DataType::Fp32 | DataType::Fp64 | DataType::Bf16 => "[0.5,-2.0]",
                _ => "[0,1,127]",
            };
            let data = read(datatype, json).unwrap();
            let again = read(datatype, &written(datatype, data.clone())).unwrap();
            assert_eq!(data, again, "{}", datatype.name());
        }
        assert_eq!(read(DataType::Fp16, "[1]").unwrap(), [0x00, 0x3c].as_slice());
        assert_eq!(read(DataType::Bf16, "[1]").unwrap(), [0x80, 0x3f].as_slice());
        assert_eq!(read(DataType::Bytes, r#"["ab"]"#).unwrap(), b"\x02\0\0\0ab".as_slice());
        assert_eq!(read(DataType::Int16, "[2.0,1e3]").unwrap(), [2, 0, 0xe8, 3].as_slice());
    }

    #[test]
    fn rows_are_flattened_and_have_one_length() {
        assert_eq!(read(DataType::Uint8, "[[1,2],[3,4]]").unwrap(), [1, 2, 3, 4].as_slice());
        assert_eq!(read(DataType::Uint8, "[[[1],[2]],[[3],[4]]]").unwrap().len(), 4);
        assert_eq!(read(DataType::Uint8, "[]").unwrap().len(), 0);
        for (json, wanted) in [
            ("[[1,2],[3]]", "a row of 1 elements beside one of 2"),
            ("[[],[3]]", "a row of 1 elements beside one of 0"),
            ("[1,[2]]", "mixes values and lists"),
            ("[[1],2]", "mixes values and lists"),
            (&format!("{}{}", "[".repeat(17), "]".repeat(17)), "deeper than 16"),
            (&"[".repeat(100_000), "deeper than 16"),
        ] {
            let message = read(DataType::Uint8, json).unwrap_err();
            assert!(message.contains(wanted), "{message}");
        }
    }

    #[test]
    fn what_is_no_element_of_the_type_is_named() {
        for (datatype, json, wanted) in [
            (DataType::Uint8, "[1,256]", "element 1 of `data` is 256, which is no UINT8"),
            (DataType::Uint8, "[-1]", "is -1, which is no UINT8"),
            (DataType::Int16, "[40000]", "no INT16"),
            (DataType::Int32, "[1.5]", "is 1.5, which is no INT32"),
            (DataType::Int64, "[1e30]", "no INT64"),
            (DataType::Fp32, "[1e39]", "no FP32"),
            (DataType::Fp16, "[70000]", "no FP16"),
            (DataType::Bool, "[2]", "no BOOL"),
            (DataType::Bytes, "[2]", "no BYTES"),
            (DataType::Fp32, r#"["a"]"#, "a string, which is no FP32"),
            (DataType::Fp32, "[null]", "NaN and infinities travel as binary data only"),
            (DataType::Fp32, "[{}]", "expected a FP32 element"),
            (DataType::Fp32, "7", "a list of FP32 elements"),
        ] {
            let message = read(datatype, json).unwrap_err();
            assert!(message.contains(wanted), "{json}: {message}");
        }
    }

    #[test]
    fn what_json_cannot_carry_is_null_or_refused() {
        let data: Vec<u8> =
            [1.0, f32::NAN, f32::INFINITY].iter().flat_map(|it| it.to_le_bytes()).collect();
        assert_eq!(written(DataType::Fp32, data.into()), "[1.0,null,null]");
        let tensor = |data: &'static [u8]| Tensor {
            name: "y".into(),
            datatype: DataType::Bytes,
            shape: vec![1],
            data: Bytes::from_static(data),
        };
        assert_eq!(unwritable(&tensor(b"\x01\0\0\0a")), None);
        assert!(unwritable(&tensor(b"\x01\0\0\0\xff")).unwrap().contains("binary_data"));
    }

    proptest! {
        #[test]
        fn no_text_panics(json in "[\\[\\],0-9.eE\"a-z\\-]{0,60}", which in 0..14_usize) {
            let _ = read(DataType::ALL[which], &json);
        }

        #[test]
        fn floats_survive(values: Vec<f32>) {
            prop_assume!(values.iter().all(|it| it.is_finite()));
            let data: Bytes = values.iter().flat_map(|it| it.to_le_bytes()).collect();
            let json = written(DataType::Fp32, data.clone());
            prop_assert_eq!(read(DataType::Fp32, &json).unwrap(), data);
        }
    }
}
