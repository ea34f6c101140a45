use std::time::Instant;
use tern_kernels::ternary::Kernel;
fn main() {
    for k in Kernel::available() {
        for (o, i) in [(128usize, 128usize), (336, 128), (128, 336), (2560, 2560)] {
            let bytes = vec![0b01100100u8; o * i.div_ceil(4)];
            let x = vec![0.5f32; i*8]; let mut y = vec![0.0f32; o*8];
            let xi = vec![5i8; i*8]; let mut yi = vec![0i32; o*8];
            let w = vec![0.1f32; o*i];
            let n = (if k.name()=="scalar" {2_000_000usize} else {200_000_000}/(o*i)).max(3);
            let mut t = |name: &str, seq: usize, f: &mut dyn FnMut()| { let s = Instant::now(); for _ in 0..n { f(); } let e = s.elapsed().as_secs_f64(); println!("{} {o}x{i} {name} {:.2} GMAC/s {:.2} us", k.name(), (n*o*i*seq) as f64/e/1e9, e/n as f64*1e6); };
            t("f32", 1, &mut || k.matvec_f32(&bytes,o,i,&x[..i],&mut y[..o]));
            t("f32x8", 8, &mut || k.matmul_f32(&bytes,o,i,&x,&mut y));
            t("i8", 1, &mut || k.matvec_i8(&bytes,o,i,&xi[..i],&mut yi[..o]));
            t("i8x8", 8, &mut || k.matmul_i8(&bytes,o,i,&xi,&mut yi));
            t("dense", 1, &mut || k.dense(&w,o,i,&x[..i],&mut y[..o]));
            t("densex8", 8, &mut || k.dense(&w,o,i,&x,&mut y));
        }
        let kk = vec![0.1f32; 32*512]; let p = vec![0.1f32; 512]; let mut o=vec![0.0f32;32];
        let s=Instant::now(); for _ in 0..10000 {k.weighted_rows(&kk,&p,&mut o);} println!("weighted 512x32 {:?}", s.elapsed()/10000);
        let mut p = vec![0.1f32; 512];
        let s=Instant::now(); for _ in 0..10000 {tern_kernels::softmax::softmax(&mut p);} println!("softmax 512 {:?}", s.elapsed()/10000);
    }
}
