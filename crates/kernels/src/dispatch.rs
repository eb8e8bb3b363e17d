//! One body, compiled once for each class: the compiler vectorises it for the class's registers.

/// Calls `body::<FMA>(arguments)` as compiled for `class`.
///
/// `body` is an `#[inline(always)]` function with one parameter, `const FMA: bool`: whether
/// [`crate::math::mul_add`] rounds once. Panics if this machine cannot run `class`.
macro_rules! for_class {
    ($class:expr, $body:ident($($name:ident: $type:ty),* $(,)?) $(-> $result:ty)?) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn avx2($($name: $type),*) $(-> $result)? {
            $body::<true>($($name),*)
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
        fn avx512($($name: $type),*) $(-> $result)? {
            $body::<true>($($name),*)
        }
        let class: $crate::Class = $class;
        assert!(class <= $crate::Class::best(), "this machine cannot run the class {class}");
        match class {
            $crate::Class::Portable => $body::<false>($($name),*),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the assertion proved that this machine runs `class` or a class above it,
            // and each class has the instructions of those below.
            $crate::Class::Avx2 => unsafe { avx2($($name),*) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            $crate::Class::Avx512 | $crate::Class::Amx => unsafe { avx512($($name),*) },
            #[cfg(not(target_arch = "x86_64"))]
            $crate::Class::Avx2 | $crate::Class::Avx512 | $crate::Class::Amx => {
                unreachable!("only x86-64 runs the class {class}")
            }
        }
    }};
}

pub(crate) use for_class;
