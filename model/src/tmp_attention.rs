//! Temporary.
use burn::tensor::{Tensor, TensorData, Bool};
/// shape
pub struct AttentionShape { pub batch: usize, pub seq: usize, pub heads: usize, pub key_value_heads: usize, pub head_dim: usize }
/// plain
pub fn causal_attention(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, s: AttentionShape, theta: f64) -> Tensor<2> {
    let device = q.device();
    let (cos, sin) = tern_kernels::rope::rope_tables(s.seq, s.head_dim, theta);
    let half = s.head_dim / 2;
    let t = |v: Vec<f32>| Tensor::<2>::from_data(TensorData::new(v, [s.seq, half]), &device).unsqueeze::<4>();
    let (cos, sin) = (t(cos), t(sin));
    let rope = |x: Tensor<4>| {
        let a = x.clone().narrow(3, 0, half); let b = x.narrow(3, half, half);
        Tensor::cat(vec![a.clone()*cos.clone() - b.clone()*sin.clone(), b*cos.clone() + a*sin.clone()], 3)
    };
    let split = |x: Tensor<2>, h: usize| x.reshape([s.batch, s.seq, h, s.head_dim]).swap_dims(1, 2);
    let q = rope(split(q, s.heads)); let k = rope(split(k, s.key_value_heads)); let v = split(v, s.key_value_heads);
    let scores = q.matmul(k.swap_dims(2,3)).div_scalar((s.head_dim as f64).sqrt());
    let mask: Vec<bool> = (0..s.seq*s.seq).map(|i| i % s.seq > i / s.seq).collect();
    let mask = Tensor::<2, Bool>::from_data(TensorData::new(mask, [s.seq, s.seq]), &device).unsqueeze::<4>();
    let p = burn::tensor::activation::softmax(scores.mask_fill(mask, -1e30), 3);
    p.matmul(v).swap_dims(1,2).reshape([s.batch*s.seq, s.heads*s.head_dim])
}
