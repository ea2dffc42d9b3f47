//! The JSON of an inference request. `data` is read in one pass, straight into raw contents; where
//! a client writes it before `datatype`, the text is read once more with the types known.

use std::fmt;

use bytes::Bytes;
use downbeat_link::DataType;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::super::elements::Elements;
use super::super::parameters::Parameters;

/// Inputs, and outputs, of one request.
pub const MAX_TENSORS: usize = 256;

/// The JSON of a request.
#[derive(Debug, Default)]
pub struct Body {
    pub id: String,
    pub parameters: Parameters,
    pub inputs: Vec<Input>,
    pub outputs: Vec<Output>,
}

/// One input.
#[derive(Debug)]
pub struct Input {
    pub name: String,
    pub datatype: DataType,
    pub shape: Vec<i64>,
    pub parameters: Parameters,
    pub data: Data,
}

/// Where an input's elements are.
#[derive(Debug, PartialEq, Eq)]
pub enum Data {
    /// Elsewhere.
    Absent,
    /// In the JSON, and read.
    Raw(Bytes),
    /// In the JSON, before their type was known.
    Passed,
}

/// One output that is asked for.
#[derive(Debug, Deserialize)]
pub struct Output {
    pub name: String,
    #[serde(default)]
    pub parameters: Parameters,
}

/// Reads a request.
///
/// # Errors
/// What is wrong, with its place.
pub fn read(json: &[u8]) -> Result<Body, serde_json::Error> {
    let body = read_with(json, &[])?;
    if body.inputs.iter().all(|input| input.data != Data::Passed) {
        return Ok(body);
    }
    let types: Vec<DataType> = body.inputs.iter().map(|input| input.datatype).collect();
    read_with(json, &types)
}

fn read_with(json: &[u8], types: &[DataType]) -> Result<Body, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let body = deserializer.deserialize_map(BodyVisitor { types })?;
    deserializer.end()?;
    Ok(body)
}

fn once<T, E: Error>(slot: &mut Option<T>, value: T, key: &'static str) -> Result<(), E> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(E::duplicate_field(key)),
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Key {
    Id,
    Parameters,
    Inputs,
    Outputs,
    Name,
    Datatype,
    Shape,
    Data,
    #[serde(other)]
    Other,
}

struct BodyVisitor<'a> {
    types: &'a [DataType],
}

impl<'de> Visitor<'de> for BodyVisitor<'_> {
    type Value = Body;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `inputs`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Body, A::Error> {
        let (mut id, mut parameters, mut inputs, mut outputs) = (None, None, None, None);
        while let Some(key) = map.next_key()? {
            match key {
                Key::Id => once(&mut id, map.next_value()?, "id")?,
                Key::Parameters => once(&mut parameters, map.next_value()?, "parameters")?,
                Key::Inputs => {
                    once(
                        &mut inputs,
                        map.next_value_seed(Inputs { types: self.types })?,
                        "inputs",
                    )?;
                }
                Key::Outputs => once(&mut outputs, map.next_value()?, "outputs")?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        let outputs: Vec<Output> = outputs.unwrap_or_default();
        if outputs.len() > MAX_TENSORS {
            return Err(A::Error::custom(format_args!("more than {MAX_TENSORS} outputs")));
        }
        Ok(Body {
            id: id.unwrap_or_default(),
            parameters: parameters.unwrap_or_default(),
            inputs: inputs.ok_or_else(|| A::Error::missing_field("inputs"))?,
            outputs,
        })
    }
}

struct Inputs<'a> {
    types: &'a [DataType],
}

impl<'de> DeserializeSeed<'de> for Inputs<'_> {
    type Value = Vec<Input>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Input>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Inputs<'_> {
    type Value = Vec<Input>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of inputs")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<Input>, A::Error> {
        let mut inputs = Vec::new();
        while let Some(input) =
            list.next_element_seed(OneInput { known: self.types.get(inputs.len()).copied() })?
        {
            if inputs.len() == MAX_TENSORS {
                return Err(A::Error::custom(format_args!("more than {MAX_TENSORS} inputs")));
            }
            inputs.push(input);
        }
        Ok(inputs)
    }
}

/// One input; its type is known where the text is read for the second time.
struct OneInput {
    known: Option<DataType>,
}

impl<'de> DeserializeSeed<'de> for OneInput {
    type Value = Input;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Input, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OneInput {
    type Value = Input;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an input with `name`, `datatype` and `shape`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Input, A::Error> {
        let (mut name, mut shape, mut parameters) = (None, None, None);
        let (mut datatype, mut data) = (None, None);
        while let Some(key) = map.next_key()? {
            match key {
                Key::Name => once(&mut name, map.next_value()?, "name")?,
                Key::Shape => once(&mut shape, map.next_value::<Shape>()?.0, "shape")?,
                Key::Parameters => once(&mut parameters, map.next_value()?, "parameters")?,
                Key::Datatype => {
                    let text: String = map.next_value()?;
                    once(&mut datatype, known_type(&text)?, "datatype")?;
                }
                Key::Data => {
                    let read = match datatype.or(self.known) {
                        Some(datatype) => Data::Raw(map.next_value_seed(Elements(datatype))?),
                        None => {
                            map.next_value::<IgnoredAny>()?;
                            Data::Passed
                        }
                    };
                    once(&mut data, read, "data")?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Input {
            name: name.ok_or_else(|| A::Error::missing_field("name"))?,
            datatype: datatype.ok_or_else(|| A::Error::missing_field("datatype"))?,
            shape: shape.ok_or_else(|| A::Error::missing_field("shape"))?,
            parameters: parameters.unwrap_or_default(),
            data: data.unwrap_or(Data::Absent),
        })
    }
}

fn known_type<E: Error>(name: &str) -> Result<DataType, E> {
    DataType::parse(name).ok_or_else(|| {
        let names = DataType::ALL.map(DataType::name).join(", ");
        E::custom(format_args!("datatype `{name}` is none of {names}"))
    })
}

/// A shape that is no longer than shapes get, so that a list of a million sizes is no million
/// sizes in memory.
struct Shape(Vec<i64>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of sizes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
        let mut shape = Vec::new();
        while let Some(size) = list.next_element()? {
            if shape.len() == downbeat_link::MAX_DIMENSIONS {
                return Err(A::Error::custom(format_args!(
                    "`shape` has more than {} dimensions",
                    downbeat_link::MAX_DIMENSIONS
                )));
            }
            shape.push(size);
        }
        Ok(Shape(shape))
    }
}
