//! Whether a request's tensors are what a model takes.

use downbeat_link::{Tensor, TensorSpec};

/// Puts tensors in the order of the specifications.
pub fn fit(specs: &[TensorSpec], mut tensors: Vec<Tensor>) -> Result<Vec<Tensor>, String> {
    let mut fitting = Vec::with_capacity(specs.len());
    for spec in specs {
        let Some(at) = tensors.iter().position(|tensor| tensor.name == spec.name) else {
            return Err(format!(
                "input `{}` is missing; the model takes {}",
                spec.name,
                all(specs)
            ));
        };
        // Those of one name behind the first are left over, and refused below.
        let tensor = tensors.remove(at);
        matches(spec, &tensor)?;
        fitting.push(tensor);
    }
    match tensors.first() {
        Some(other) if specs.iter().any(|spec| spec.name == other.name) => {
            Err(format!("input `{}` is there twice", other.name))
        }
        Some(other) => {
            Err(format!("there is no input `{}`; the model takes {}", other.name, all(specs)))
        }
        None => Ok(fitting),
    }
}

fn matches(spec: &TensorSpec, tensor: &Tensor) -> Result<(), String> {
    let fits = |(wanted, is): (&i64, &u64)| match u64::try_from(*wanted) {
        Ok(wanted) => *is == wanted,
        // Any size but none at all: engines do not expect that.
        Err(_) => *is > 0,
    };
    let same =
        tensor.shape.len() == spec.shape.len() && spec.shape.iter().zip(&tensor.shape).all(fits);
    if tensor.datatype != spec.datatype || !same {
        return Err(format!(
            "input `{}` is {} with shape {:?}; the model takes {}",
            tensor.name,
            tensor.datatype.name(),
            tensor.shape,
            told(spec)
        ));
    }
    // Whatever is neither 0 nor 1 would be no value of the type at all.
    if tensor.datatype == downbeat_link::DataType::Bool
        && let Some(at) = tensor.data.iter().position(|byte| *byte > 1)
    {
        return Err(format!("element {at} of `{}` is no BOOL; it is 0 or 1", tensor.name));
    }
    Ok(())
}

fn told(spec: &TensorSpec) -> String {
    format!("{} with shape {:?} (-1: any)", spec.datatype.name(), spec.shape)
}

fn all(specs: &[TensorSpec]) -> String {
    let each: Vec<_> =
        specs.iter().map(|spec| format!("`{}`: {}", spec.name, told(spec))).collect();
    each.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use downbeat_link::DataType;

    fn spec(name: &str, datatype: DataType, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: name.into(), datatype, shape: shape.to_vec() }
    }

    fn tensor(name: &str, datatype: DataType, shape: &[u64]) -> Tensor {
        let bytes = shape.iter().product::<u64>() as usize * datatype.size().unwrap();
        Tensor { name: name.into(), datatype, shape: shape.to_vec(), data: vec![0; bytes].into() }
    }

    #[test]
    fn tensors_come_in_the_models_order() {
        let specs = [spec("a", DataType::Fp32, &[-1, 3]), spec("b", DataType::Int64, &[])];
        let (a, b) = (tensor("a", DataType::Fp32, &[5, 3]), tensor("b", DataType::Int64, &[]));
        assert_eq!(fit(&specs, vec![b.clone(), a.clone()]), Ok(vec![a, b]));
    }

    #[test]
    fn what_does_not_fit_is_told_with_what_would() {
        let specs = [spec("a", DataType::Fp32, &[-1, 3])];
        let refusal = |tensors: Vec<Tensor>| fit(&specs, tensors).unwrap_err();
        let good = || tensor("a", DataType::Fp32, &[1, 3]);
        assert_eq!(
            refusal(vec![tensor("a", DataType::Int32, &[1, 3])]),
            "input `a` is INT32 with shape [1, 3]; the model takes FP32 with shape [-1, 3] (-1: any)"
        );
        for shape in [&[1, 4][..], &[3], &[1, 1, 3], &[0, 3]] {
            let error = refusal(vec![tensor("a", DataType::Fp32, shape)]);
            assert!(error.contains(&format!("{shape:?}")), "{error}");
        }
        assert!(refusal(vec![]).starts_with("input `a` is missing; the model takes `a`: FP32"));
        let other = tensor("z", DataType::Fp32, &[1]);
        assert!(refusal(vec![good(), other]).starts_with("there is no input `z`"));
        assert_eq!(refusal(vec![good(), good()]), "input `a` is there twice");
    }

    #[test]
    fn a_bool_is_0_or_1() {
        let specs = [spec("a", DataType::Bool, &[-1])];
        let with = |data: &[u8]| Tensor {
            data: data.to_vec().into(),
            ..tensor("a", DataType::Bool, &[data.len() as u64])
        };
        assert!(fit(&specs, vec![with(&[0, 1, 1])]).is_ok());
        let error = fit(&specs, vec![with(&[0, 1, 2])]).unwrap_err();
        assert_eq!(error, "element 2 of `a` is no BOOL; it is 0 or 1");
    }
}
