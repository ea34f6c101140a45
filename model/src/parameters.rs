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

/// The values of a tensor on the host, in row-major order.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    // The tensors of this crate are f32 on every device.
    tensor.into_data().try_into_vec().unwrap_or_default()
}

/// A tensor on the host: shape and row-major values.
pub type HostTensor = (Vec<usize>, Vec<f32>);

/// The path of the parameter that a traversal stands at, in Hugging Face's form.
#[derive(Default)]
pub struct Path(Vec<String>);

impl Path {
    /// Goes into a field.
    pub fn enter(&mut self, name: &str) {
        self.0.push(name.into());
    }

    /// Leaves it.
    pub fn exit(&mut self) {
        self.0.pop();
    }

    /// `model.layers.0.self_attn.q_proj.weight`
    pub fn name(&self) -> String {
        self.0.join(".")
    }
}

/// Copies every parameter to the host, by name.
pub fn export<M: Module>(module: &M) -> BTreeMap<String, HostTensor> {
    #[derive(Default)]
    struct Export {
        path: Path,
        all: BTreeMap<String, HostTensor>,
    }
    impl ModuleVisitor for Export {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.enter(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            self.all.insert(self.path.name(), (tensor.dims().to_vec(), values(tensor)));
        }
    }
    let mut visitor = Export::default();
    module.visit(&mut visitor);
    visitor.all
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
        path: Path,
        weights: BTreeMap<String, HostTensor>,
        error: Option<WeightsError>,
    }
    impl ModuleMapper for Import {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.enter(name);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.exit();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let name = self.path.name();
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
    let mut mapper = Import { path: Path::default(), weights, error: None };
    let module = module.map(&mut mapper);
    match (mapper.error, mapper.weights.pop_first()) {
        (Some(error), _) => Err(error),
        (None, Some((name, _))) => Err(WeightsError::Extra { name }),
        (None, None) => Ok(module),
    }
}
