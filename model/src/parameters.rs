//! Named parameters: fresh ones, and copies into and out of a module.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

/// Draws initial weights on the host, so that a seed gives the same model on every device.
pub struct Init(ChaCha8Rng);

impl Init {
    /// A source of weights that depends on nothing but `seed`.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// A matrix from N(0, `std`^2).
    pub(crate) fn normal(
        &mut self,
        shape: [usize; 2],
        std: f64,
        device: &Device,
    ) -> Param<Tensor<2>> {
        let values: Vec<f32> = (0..shape[0] * shape[1])
            .map(|_| {
                let z: f64 = StandardNormal.sample(&mut self.0);
                (z * std) as f32
            })
            .collect();
        Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), device))
    }
}

/// The values of a tensor on the host, in row-major order; no copy where nobody else holds them.
///
/// # Panics
///
/// If they are no f32.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    // The tensors of this crate are f32 on every device.
    tensor.into_data().try_into_vec().expect("an f32 tensor")
}

/// A tensor on the host: shape and row-major values.
pub type HostTensor = (Vec<usize>, Vec<f32>);

/// What is done with each float parameter of a module, under its name in Hugging Face's form
/// (`model.layers.0.self_attn.q_proj.weight`).
pub trait Visit {
    /// Sees one parameter.
    fn float<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>);
}

/// What becomes of each float parameter of a module, under its name as in [`Visit`].
pub trait Map {
    /// Replaces one parameter, or leaves it as it is.
    fn float<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>>;
}

/// Shows every parameter to a visitor.
pub fn visit<M: Module>(module: &M, visitor: &mut impl Visit) {
    module.visit(&mut Named { path: Vec::new(), inner: visitor });
}

/// Passes every parameter through a mapper.
pub fn map<M: Module>(module: M, mapper: &mut impl Map) -> M {
    module.map(&mut Named { path: Vec::new(), inner: mapper })
}

/// Keeps the path that a traversal stands at.
struct Named<'a, T> {
    path: Vec<String>,
    inner: &'a mut T,
}

impl<V: Visit> ModuleVisitor for Named<'_, V> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.inner.float(&self.path.join("."), param);
    }
}

impl<M: Map> ModuleMapper for Named<'_, M> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.inner.float(&self.path.join("."), param)
    }
}

/// Copies every parameter to the host, by name.
pub fn export<M: Module>(module: &M) -> BTreeMap<String, HostTensor> {
    struct Export(BTreeMap<String, HostTensor>);
    impl Visit for Export {
        fn float<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            self.0.insert(name.into(), (tensor.dims().to_vec(), values(tensor)));
        }
    }
    let mut all = Export(BTreeMap::new());
    visit(module, &mut all);
    all.0
}

/// Why weights do not fit a module.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The module has a parameter that the weights lack.
    #[error("tensor {name} is missing")]
    Missing {
        /// The parameter.
        name: String,
    },
    /// A shape differs.
    #[error("tensor {name} has shape {found:?}, the model needs {expected:?}")]
    Shape {
        /// The parameter.
        name: String,
        /// Shape of the given tensor.
        found: Vec<usize>,
        /// Shape of the parameter.
        expected: Vec<usize>,
    },
    /// The weights have a tensor that the module lacks.
    #[error("tensor {name} is not part of the model")]
    Extra {
        /// The tensor.
        name: String,
    },
}

/// Replaces every parameter by the weight of its name.
///
/// # Errors
///
/// Names the first tensor that is missing, left over, or of another shape.
pub fn import<M: Module>(
    module: M,
    weights: BTreeMap<String, HostTensor>,
) -> Result<M, WeightsError> {
    struct Import {
        weights: BTreeMap<String, HostTensor>,
        error: Option<WeightsError>,
    }
    impl Map for Import {
        fn float<const D: usize>(
            &mut self,
            name: &str,
            param: Param<Tensor<D>>,
        ) -> Param<Tensor<D>> {
            let name = name.to_owned();
            let Some((found, values)) = self.weights.remove(&name) else {
                self.error.get_or_insert(WeightsError::Missing { name });
                return param;
            };
            let (id, old, mapper) = param.consume();
            let expected = old.dims().to_vec();
            if found != expected || values.len() != expected.iter().product::<usize>() {
                self.error.get_or_insert(WeightsError::Shape { name, found, expected });
                return Param::from_mapped_value(id, old, mapper);
            }
            let new = Tensor::<D>::from_data(TensorData::new(values, found), &old.device())
                .set_require_grad(old.is_require_grad());
            Param::from_mapped_value(id, new, mapper)
        }
    }
    let mut import = Import { weights, error: None };
    let module = map(module, &mut import);
    match (import.error, import.weights.pop_first()) {
        (Some(error), _) => Err(error),
        (None, Some((name, _))) => Err(WeightsError::Extra { name }),
        (None, None) => Ok(module),
    }
}
