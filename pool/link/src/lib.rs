//! What travels between the pool and its workers.

mod tensor;

pub use tensor::{
    DataType, MAX_DIMENSIONS, Tensor, TensorError, TensorSpec, checked_shape, elements,
};
