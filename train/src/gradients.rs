//! Gradients by parameter name: summed over micro-batches, clipped by their global norm.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use tern_model::fused;
use tern_model::parameters::{Visit, visit};

/// The gradient of every parameter, flattened, without autodiff.
#[derive(Default)]
pub struct Gradients(BTreeMap<String, Tensor<1>>);

impl Gradients {
    /// Adds the gradients that one backward pass left.
    pub fn add<M: Module>(&mut self, model: &M, backward: burn::tensor::Gradients) {
        struct Collect<'a> {
            backward: burn::tensor::Gradients,
            all: &'a mut BTreeMap<String, Tensor<1>>,
        }
        impl Visit for Collect<'_> {
            fn float<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
                let Some(gradient) = param.val().grad_remove(&mut self.backward) else { return };
                let gradient = gradient.flatten::<1>(0, D - 1);
                let sum = match self.all.remove(name) {
                    Some(sum) => sum.add(gradient),
                    None => gradient,
                };
                self.all.insert(name.into(), sum);
            }
        }
        visit(model, &mut Collect { backward, all: &mut self.0 });
    }

    /// The L2 norm over all parameters together.
    pub fn norm(&self) -> f64 {
        let squares: Vec<Tensor<1>> =
            self.0.values().map(|g| fused::sum_of_squares(g.clone())).collect();
        if squares.is_empty() {
            return 0.0;
        }
        f64::from(Tensor::cat(squares, 0).sum().sqrt().into_scalar::<f32>())
    }

    /// Scales all gradients so that their norm, `norm`, is at most `max_norm`
    /// (`max_norm / (norm + 1e-6)` where that is below 1, as in torch).
    pub fn clip(&mut self, norm: f64, max_norm: f64) {
        let factor = max_norm / (norm + 1e-6);
        if factor < 1.0 {
            let all = std::mem::take(&mut self.0).into_iter();
            self.0 = all.map(|(name, gradient)| (name, fused::scale(gradient, factor))).collect();
        }
    }

    /// Every gradient by its name, in the order of names.
    pub(crate) fn into_iter(self) -> impl Iterator<Item = (String, Tensor<1>)> {
        self.0.into_iter()
    }

    /// Takes the gradient of one parameter.
    pub(crate) fn remove(&mut self, name: &str) -> Option<Tensor<1>> {
        self.0.remove(name)
    }

    /// The gradient of one parameter, flattened.
    pub fn get(&self, name: &str) -> Option<&Tensor<1>> {
        self.0.get(name)
    }
}

impl FromIterator<(String, Tensor<1>)> for Gradients {
    fn from_iter<I: IntoIterator<Item = (String, Tensor<1>)>>(gradients: I) -> Self {
        Self(gradients.into_iter().collect())
    }
}
