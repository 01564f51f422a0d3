//! The non-linear functions of MLPs.

use crate::math;
use crate::vector::{Vector, Work};

/// A non-linear function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// max(x, 0).
    Relu,
    /// x Φ(x) with the normal distribution Φ: x/2 (1 + erf(x / √2)) (arXiv 1606.08415).
    Gelu,
    /// x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))), GPT-2's (arXiv 1606.08415, section 2).
    GeluTanh,
    /// x / (1 + e^-x), also called swish.
    Silu,
    /// x / (1 + e^(-1.702 x)) (arXiv 1606.08415, section 2).
    QuickGelu,
    /// max(x, 0)² (Primer, arXiv 2109.08668).
    SquaredRelu,
    /// The hyperbolic tangent.
    Tanh,
    /// 1 / (1 + e^-x).
    Sigmoid,
}

impl Activation {
    /// All activations.
    pub const ALL: [Activation; 8] = [
        Activation::Relu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Silu,
        Activation::QuickGelu,
        Activation::SquaredRelu,
        Activation::Tanh,
        Activation::Sigmoid,
    ];

    /// The function at one value, as the portable path computes it.
    pub fn apply(self, x: f32) -> f32 {
        let mut value = [x];
        crate::vector::Path::new(crate::Simd::Portable).run(Apply { activation: self, values: &mut value });
        value[0]
    }

    /// Replaces each value x by f(x).
    #[inline(always)]
    pub(crate) fn replace<V: Vector>(self, v: V, values: &mut [f32]) {
        match self {
            Activation::Relu => each(v, values, Relu),
            Activation::Gelu => each(v, values, Gelu),
            Activation::GeluTanh => each(v, values, GeluTanh),
            Activation::Silu => each(v, values, Silu),
            Activation::QuickGelu => each(v, values, QuickGelu),
            Activation::SquaredRelu => each(v, values, SquaredRelu),
            Activation::Tanh => each(v, values, Tanh),
            Activation::Sigmoid => each(v, values, Sigmoid),
        }
    }
}

/// The work of applying a function to values in place.
pub(crate) struct Apply<'a> {
    pub(crate) activation: Activation,
    pub(crate) values: &'a mut [f32],
}

impl Work for Apply<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        self.activation.replace(v, self.values);
    }
}

/// A function of a vector. Not a closure: only a function can be forced inline.
trait Function: Copy {
    fn of<V: Vector>(self, v: V, x: V::F) -> V::F;
}

#[inline(always)]
fn each<V: Vector>(v: V, values: &mut [f32], function: impl Function) {
    let mut chunks = values.chunks_exact_mut(V::LANES);
    for chunk in &mut chunks {
        v.store(function.of(v, v.load(chunk)), chunk);
    }
    let rest = chunks.into_remainder();
    if !rest.is_empty() {
        v.store_some(function.of(v, v.load_or(rest, 0.0)), rest);
    }
}

macro_rules! functions {
    ($($name:ident: $function:expr;)*) => {$(
        #[derive(Clone, Copy)]
        struct $name;

        impl Function for $name {
            #[inline(always)]
            fn of<V: Vector>(self, v: V, x: V::F) -> V::F {
                $function(v, x)
            }
        }
    )*};
}

functions! {
    Relu: relu;
    Gelu: math::gelu;
    GeluTanh: math::gelu_tanh;
    Silu: math::silu;
    QuickGelu: math::quick_gelu;
    SquaredRelu: squared_relu;
    Tanh: math::tanh;
    Sigmoid: math::sigmoid;
}

#[inline(always)]
fn relu<V: Vector>(v: V, x: V::F) -> V::F {
    v.where_negative(x, v.splat(0.0), x)
}

#[inline(always)]
fn squared_relu<V: Vector>(v: V, x: V::F) -> V::F {
    let x = relu(v, x);
    v.mul(x, x)
}
