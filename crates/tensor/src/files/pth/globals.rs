//! The list: every Python name that a pickle of tensors may use. Each stands for a few lines of ours;
//! none is ever looked up or called in Python's way.
//!
//! Source: PyTorch's `torch/_weights_only_unpickler.py`.

use herd_kernels::Format;

use super::super::DType;

/// The Python names that a pickle may ask for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Size,
    Device,
    Storage(DType),
    /// `torch.bfloat16` and the like, where a value names a type.
    Type,
}

/// What a name stands for, or `None` if it is not on the list.
pub(super) fn allowed(module: &str, name: &str) -> Option<Global> {
    match (module, name) {
        ("collections", "OrderedDict") => Some(Global::OrderedDict),
        ("torch._utils", "_rebuild_tensor_v2") => Some(Global::RebuildTensor),
        ("torch._utils", "_rebuild_parameter") => Some(Global::RebuildParameter),
        ("torch", "Size") => Some(Global::Size),
        ("torch", "device") => Some(Global::Device),
        ("torch", name) if TYPES.contains(&name) => Some(Global::Type),
        ("torch", name) => STORAGES.iter().find(|s| s.0 == name).map(|s| Global::Storage(s.1)),
        _ => None,
    }
}

/// Names of storage classes, and what they hold.
pub(super) const STORAGES: [(&str, DType); 10] = [
    ("BFloat16Storage", DType::Format(Format::BF16)),
    ("HalfStorage", DType::Format(Format::F16)),
    ("FloatStorage", DType::Format(Format::F32)),
    ("DoubleStorage", DType::F64),
    ("LongStorage", DType::I64),
    ("IntStorage", DType::I32),
    ("ShortStorage", DType::I16),
    ("CharStorage", DType::I8),
    ("ByteStorage", DType::U8),
    ("BoolStorage", DType::Bool),
];

const TYPES: [&str; 10] = [
    "bfloat16", "float16", "float32", "float64", "int64", "int32", "int16", "int8", "uint8", "bool",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_off_the_list_has_a_name() {
        for (module, name) in
            [("os", "system"), ("builtins", "eval"), ("torch", "_utils"), ("", "")]
        {
            assert_eq!(allowed(module, name), None);
        }
    }
}
