//! `cargo bench`: every kernel on the shapes of real networks, beside what memory allows: a parallel copy and a parallel
//! `a + b` of the same tensors, in the same run.
//!
//! float32, dense, outputs reused, all threads (`NORMKIT_NUM_THREADS`). The throughput shown counts what a kernel must
//! move at the least, so that it compares with that of its yardstick: two tensors (`copy`) in forward, inference and
//! folding, one in moments, three (`add`) in backward, one more for a residual or a style and for its gradient.
//! A new kernel is a function at the end, an `Op`, and a place in `TABLES`. A part of it: `cargo bench -- resnet50.*backward`.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::hint::black_box;
use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use normkit::{Activation, BatchNormOf, Bounds, ConvOf, Extras, Layer, Operand, Tensor, TensorMut, Used};
use rayon_core::{ThreadPool, ThreadPoolBuilder};

/// Shapes that belong together, and what is measured on them.
struct Table {
    name: &'static str,
    ops: &'static [Op],
    shapes: &'static [&'static [usize]],
}

/// A function, and how many tensors it reads and writes at the least.
type Op = (&'static str, usize, fn(&mut Problem) -> Run<'_>);

/// A call that is measured; what it needs is there already.
type Run<'a> = Box<dyn FnMut() + 'a>;

const COPY: Op = ("copy", 2, copy);
const ADD: Op = ("add", 3, add);
const BATCH: Op = ("batch_norm", 2, batch_norm);
const BATCH_INFERENCE: Op = ("batch_norm_inference", 2, batch_norm_inference);
const BATCH_BACKWARD: Op = ("batch_norm_backward", 3, batch_norm_backward);
const GROUP: Op = ("group_norm", 2, group_norm);
const GROUP_BACKWARD: Op = ("group_norm_backward", 3, group_norm_backward);
const INSTANCE: Op = ("instance_norm", 2, instance_norm);
const INSTANCE_BACKWARD: Op = ("instance_norm_backward", 3, instance_norm_backward);
const ADAPTIVE: Op = ("adaptive_instance_norm", 3, adaptive_instance_norm);
const ADAPTIVE_BACKWARD: Op = ("adaptive_instance_norm_backward", 5, adaptive_instance_norm_backward);
const LAYER: Op = ("layer_norm", 2, layer_norm);
const LAYER_BACKWARD: Op = ("layer_norm_backward", 3, layer_norm_backward);
const RMS: Op = ("rms_norm", 2, rms_norm);
const RMS_BACKWARD: Op = ("rms_norm_backward", 3, rms_norm_backward);
const RENORM: Op = ("batch_renorm", 2, batch_renorm);
const RENORM_BACKWARD: Op = ("batch_renorm_backward", 3, batch_renorm_backward);
const FUSED: Op = ("batch_norm_add_relu", 3, batch_norm_add_relu);
const FUSED_BACKWARD: Op = ("batch_norm_add_relu_backward", 5, batch_norm_add_relu_backward);
const MOMENTS: Op = ("moments", 1, moments);
const FOLD: Op = ("fold_conv_bn", 2, fold_conv_bn);
const WEIGHT: Op = ("weight_norm", 2, weight_norm);
const WEIGHT_BACKWARD: Op = ("weight_norm_backward", 3, weight_norm_backward);
const SPECTRAL: Op = ("spectral_norm", 2, spectral_norm);
const SPECTRAL_BACKWARD: Op = ("spectral_norm_backward", 3, spectral_norm_backward);
const STANDARDIZATION: Op = ("scaled_weight_standardization", 2, standardization);
const STANDARDIZATION_BACKWARD: Op = ("scaled_weight_standardization_backward", 3, standardization_backward);

const BATCH_OPS: &[Op] = &[COPY, ADD, BATCH, BATCH_INFERENCE, BATCH_BACKWARD];
const GROUP_OPS: &[Op] = &[COPY, ADD, GROUP, GROUP_BACKWARD];
const WEIGHT_OPS: &[Op] =
    &[COPY, ADD, FOLD, WEIGHT, WEIGHT_BACKWARD, SPECTRAL, SPECTRAL_BACKWARD, STANDARDIZATION, STANDARDIZATION_BACKWARD];

const TABLES: &[Table] = &[
    Table {
        name: "resnet50",
        ops: BATCH_OPS,
        shapes: &[
            &[32, 64, 112, 112],
            &[32, 256, 56, 56],
            &[32, 64, 56, 56],
            &[32, 512, 28, 28],
            &[32, 128, 28, 28],
            &[32, 1024, 14, 14],
            &[32, 256, 14, 14],
            &[32, 2048, 7, 7],
            &[32, 512, 7, 7],
        ],
    },
    // Sides that no vector divides.
    Table { name: "densenet121", ops: BATCH_OPS, shapes: &[&[64, 128, 57, 57], &[64, 512, 15, 15], &[64, 1024, 8, 8]] },
    Table {
        name: "small",
        ops: &[COPY, ADD, BATCH, BATCH_INFERENCE, BATCH_BACKWARD, MOMENTS],
        shapes: &[&[8, 32, 32, 32], &[2, 251, 28, 28], &[256, 128], &[32, 512]],
    },
    Table {
        name: "groups",
        ops: GROUP_OPS,
        shapes: &[
            &[32, 256, 56, 56],
            &[32, 2048, 7, 7],
            &[1, 128, 768, 768],
            &[1, 512, 96, 96],
            &[2, 320, 48, 48],
            &[2, 2560, 12, 12],
        ],
    },
    // The ends of ResNet-50's blocks.
    Table {
        name: "residuals",
        ops: &[COPY, ADD, FUSED, FUSED_BACKWARD],
        shapes: &[&[32, 256, 56, 56], &[32, 512, 28, 28], &[32, 1024, 14, 14], &[32, 2048, 7, 7]],
    },
    // Tokens and features of transformers.
    Table {
        name: "rows",
        ops: &[COPY, ADD, LAYER, LAYER_BACKWARD, RMS, RMS_BACKWARD],
        shapes: &[&[256, 768], &[128, 1024], &[1920, 512], &[5120, 1024], &[8192, 1024], &[4096, 3072]],
    },
    // Networks that transfer a style.
    Table {
        name: "instances",
        ops: &[COPY, ADD, INSTANCE, INSTANCE_BACKWARD, ADAPTIVE, ADAPTIVE_BACKWARD],
        shapes: &[&[4, 32, 256, 256], &[4, 64, 128, 128], &[4, 128, 64, 64], &[8, 512, 32, 32]],
    },
    Table {
        name: "renorm",
        ops: &[COPY, ADD, RENORM, RENORM_BACKWARD],
        shapes: &[&[32, 64, 56, 56], &[32, 512, 28, 28], &[32, 2048, 7, 7]],
    },
    Table { name: "moments", ops: &[COPY, MOMENTS], shapes: &[&[32, 256, 56, 56], &[32, 2048, 7, 7]] },
    Table {
        name: "weights",
        ops: WEIGHT_OPS,
        shapes: &[&[64, 3, 7, 7], &[512, 512, 3, 3], &[2048, 512, 1, 1], &[1000, 2048]],
    },
];

/// Memory as a careful caller has it: at the start of a huge page, and of those where the system gives them.
struct Buffer(&'static mut [f32]);

impl Buffer {
    const ALIGNMENT: usize = 2 << 20;

    fn layout(len: usize) -> Layout {
        let size = (len * size_of::<f32>()).next_multiple_of(Self::ALIGNMENT).max(Self::ALIGNMENT);
        Layout::from_size_align(size, Self::ALIGNMENT).expect("a shape that fits")
    }

    fn new(len: usize, mut value: impl FnMut() -> f32) -> Buffer {
        let layout = Self::layout(len);
        // SAFETY: its size is not zero.
        let memory = unsafe { alloc(layout) };
        if memory.is_null() {
            handle_alloc_error(layout);
        }
        #[cfg(target_os = "linux")]
        // SAFETY: advice on whole pages of our own; it may be refused.
        unsafe {
            libc::madvise(memory.cast(), layout.size(), libc::MADV_HUGEPAGE);
        }
        let memory: *mut f32 = memory.cast();
        // SAFETY: `memory` is as long as `len` elements, is written before it is read, and is freed by `drop` alone.
        Buffer(unsafe {
            (0..len).for_each(|i| memory.add(i).write(value()));
            std::slice::from_raw_parts_mut(memory, len)
        })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.0.as_mut_ptr().cast(), Self::layout(self.0.len())) };
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        self.0
    }
}

/// The tensors of one shape.
struct Problem {
    shape: &'static [usize],
    x: Buffer,
    dy: Buffer,
    out: Buffer,
    /// For each channel.
    weight: Vec<f64>,
    bias: Vec<f64>,
}

/// The same as arguments.
struct Arguments<'a> {
    x: Tensor<'a, f32>,
    dy: Tensor<'a, f32>,
    out: TensorMut<'a, f32>,
    weight: Option<&'a [f64]>,
    bias: Option<&'a [f64]>,
}

impl Problem {
    fn new(shape: &'static [usize]) -> Problem {
        let size = shape.iter().product();
        // Numbers in [-2, 2) of a xorshift generator.
        let mut state = 0x9e37_79b9_u32;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as i32 as f32 / (1u32 << 30) as f32
        };
        Problem {
            shape,
            x: Buffer::new(size, &mut random),
            dy: Buffer::new(size, &mut random),
            out: Buffer::new(size, || 0.0),
            weight: (0..shape[1]).map(|c| 0.5 + c as f64 * 0.001).collect(),
            bias: (0..shape[1]).map(|c| 0.1 - c as f64 * 0.001).collect(),
        }
    }

    fn arguments(&mut self) -> Arguments<'_> {
        Arguments {
            x: Tensor::dense(&self.x, self.shape).expect("fits"),
            dy: Tensor::dense(&self.dy, self.shape).expect("fits"),
            out: TensorMut::dense(&mut self.out, self.shape).expect("fits"),
            weight: Some(&self.weight),
            bias: Some(&self.bias),
        }
    }

    /// 32, or as many as divide the channels.
    fn groups(&self) -> usize {
        (1..=32).rev().find(|groups| self.shape[1].is_multiple_of(*groups)).expect("1 does")
    }

    /// A fourth tensor: a residual or a style.
    fn beside(&self) -> Buffer {
        let mut values = self.dy.iter().rev();
        Buffer::new(self.dy.len(), || *values.next().expect("as many"))
    }

    /// A fifth: where the fourth one's gradient goes.
    fn gradient_beside(&self) -> Buffer {
        Buffer::new(self.dy.len(), || 0.0)
    }
}

const EPS: f64 = 1e-5;

fn batch_norm(problem: &mut Problem) -> Run<'_> {
    let Arguments { x, mut out, weight, bias, .. } = problem.arguments();
    Box::new(move || {
        black_box(normkit::batch_norm(&x, 1, weight, bias, EPS, &mut out).expect("valid"));
    })
}

fn batch_norm_inference(problem: &mut Problem) -> Run<'_> {
    let Arguments { x, mut out, weight, bias, .. } = problem.arguments();
    let of = normkit::batch_norm(&x, 1, weight, bias, EPS, &mut out).expect("valid");
    Box::new(move || {
        normkit::batch_norm_inference(&x, 1, &of.mean, &of.rstd, weight, bias, &mut out).expect("valid");
    })
}

fn batch_norm_backward(problem: &mut Problem) -> Run<'_> {
    let Arguments { x, dy, mut out, weight, bias, .. } = problem.arguments();
    let of = normkit::batch_norm(&x, 1, weight, bias, EPS, &mut out).expect("valid");
    Box::new(move || {
        let gradients = normkit::batch_norm_backward(&dy, &x, 1, &of.mean, &of.rstd, weight, false, &mut out);
        black_box(gradients.expect("valid"));
    })
}

fn group_norm(problem: &mut Problem) -> Run<'_> {
    let groups = problem.groups();
    in_groups(problem, groups)
}

fn group_norm_backward(problem: &mut Problem) -> Run<'_> {
    let groups = problem.groups();
    in_groups_backward(problem, groups)
}

/// A group is a channel.
fn instance_norm(problem: &mut Problem) -> Run<'_> {
    let channels = problem.shape[1];
    in_groups(problem, channels)
}

fn instance_norm_backward(problem: &mut Problem) -> Run<'_> {
    let channels = problem.shape[1];
    in_groups_backward(problem, channels)
}

fn in_groups(problem: &mut Problem, groups: usize) -> Run<'_> {
    let Arguments { x, mut out, weight, bias, .. } = problem.arguments();
    Box::new(move || {
        black_box(normkit::group_norm(&x, 1, groups, weight, bias, EPS, &mut out).expect("valid"));
    })
}

fn in_groups_backward(problem: &mut Problem, groups: usize) -> Run<'_> {
    let Arguments { x, dy, mut out, weight, bias } = problem.arguments();
    let of = normkit::group_norm(&x, 1, groups, weight, bias, EPS, &mut out).expect("valid");
    Box::new(move || {
        let gradients = normkit::group_norm_backward(&dy, &x, 1, groups, &of.mean, &of.rstd, weight, &mut out);
        black_box(gradients.expect("valid"));
    })
}

fn adaptive_instance_norm(problem: &mut Problem) -> Run<'_> {
    let Arguments { x, dy: style, mut out, .. } = problem.arguments();
    Box::new(move || {
        black_box(normkit::adaptive_instance_norm(&x, &style, 1, EPS, 0, &mut out).expect("valid"));
    })
}

fn adaptive_instance_norm_backward(problem: &mut Problem) -> Run<'_> {
    let (shape, style, mut dstyle) = (problem.shape, problem.beside(), problem.gradient_beside());
    let Arguments { x, dy, mut out, .. } = problem.arguments();
    let of = {
        let style = Tensor::dense(&style, shape).expect("fits");
        normkit::adaptive_instance_norm(&x, &style, 1, EPS, 0, &mut out).expect("valid")
    };
    let dy = Operand::from(&dy);
    Box::new(move || {
        let style = Tensor::dense(&style, shape).expect("fits");
        let mut dstyle = TensorMut::dense(&mut dstyle, shape).expect("fits");
        normkit::adaptive_instance_norm_backward(&dy, &x, &style, 1, &of, 0, &mut out, &mut dstyle).expect("valid");
    })
}

fn layer_norm(problem: &mut Problem) -> Run<'_> {
    over_rows(problem, true)
}

fn layer_norm_backward(problem: &mut Problem) -> Run<'_> {
    over_rows_backward(problem, true)
}

fn rms_norm(problem: &mut Problem) -> Run<'_> {
    over_rows(problem, false)
}

fn rms_norm_backward(problem: &mut Problem) -> Run<'_> {
    over_rows_backward(problem, false)
}

/// Of a shape (rows, columns): what is for channels elsewhere is for columns here. Without centring there is no bias.
fn over_rows(problem: &mut Problem, centred: bool) -> Run<'_> {
    let layer = Layer { axes: vec![1], centred };
    let Arguments { x, mut out, weight, bias, .. } = problem.arguments();
    let bias = bias.filter(|_| centred);
    Box::new(move || {
        black_box(normkit::layer_norm(&x, &layer, weight, bias, EPS, &mut out).expect("valid"));
    })
}

fn over_rows_backward(problem: &mut Problem, centred: bool) -> Run<'_> {
    let layer = Layer { axes: vec![1], centred };
    let Arguments { x, dy, mut out, weight, .. } = problem.arguments();
    let of = normkit::layer_norm(&x, &layer, weight, None, EPS, &mut out).expect("valid");
    let dy = Operand::from(&dy);
    Box::new(move || {
        let gradients = normkit::layer_norm_backward(&dy, &x, &layer, &of.mean, &of.rstd, weight, true, &mut out);
        black_box(gradients.expect("valid"));
    })
}

fn batch_renorm(problem: &mut Problem) -> Run<'_> {
    let (mean, var) = running(problem.shape[1]);
    let Arguments { x, mut out, weight, bias, .. } = problem.arguments();
    Box::new(move || {
        let of = normkit::batch_renorm(&x, 1, weight, bias, EPS, [&mean, &var], BOUNDS, &mut out);
        black_box(of.expect("valid"));
    })
}

fn batch_renorm_backward(problem: &mut Problem) -> Run<'_> {
    let (mean, var) = running(problem.shape[1]);
    let Arguments { x, dy, mut out, weight, bias } = problem.arguments();
    let of = normkit::batch_renorm(&x, 1, weight, bias, EPS, [&mean, &var], BOUNDS, &mut out);
    let (of, r, d) = of.expect("valid");
    let dy = Operand::from(&dy);
    Box::new(move || {
        let used = Used { mean: &of.mean, rstd: &of.rstd, frozen: false };
        let gradients = normkit::batch_renorm_backward(&dy, &x, 1, used, weight, [&r, &d], &mut out);
        black_box(gradients.expect("valid"));
    })
}

const BOUNDS: Bounds = Bounds { r: 3.0, d: 5.0 };

/// Running means and variances.
fn running(channels: usize) -> (Vec<f64>, Vec<f64>) {
    (vec![0.25; channels], vec![2.0; channels])
}

fn batch_norm_add_relu(problem: &mut Problem) -> Run<'_> {
    let Arguments { x, dy: residual, mut out, weight, bias } = problem.arguments();
    let extras = add_relu(&residual);
    Box::new(move || {
        black_box(normkit::batch_norm_fused(&x, 1, weight, bias, EPS, &extras, &mut out).expect("valid"));
    })
}

fn batch_norm_add_relu_backward(problem: &mut Problem) -> Run<'_> {
    let (shape, residual, mut dresidual) = (problem.shape, problem.beside(), problem.gradient_beside());
    let Arguments { x, dy, mut out, weight, bias } = problem.arguments();
    let of = {
        let residual = Tensor::dense(&residual, shape).expect("fits");
        normkit::batch_norm_fused(&x, 1, weight, bias, EPS, &add_relu(&residual), &mut out).expect("valid")
    };
    let dy = Operand::from(&dy);
    Box::new(move || {
        let residual = Tensor::dense(&residual, shape).expect("fits");
        let mut dresidual = TensorMut::dense(&mut dresidual, shape).expect("fits");
        let used = Used { mean: &of.mean, rstd: &of.rstd, frozen: false };
        let (extras, second) = (add_relu(&residual), Some(&mut dresidual));
        let gradients = normkit::batch_norm_fused_backward(&dy, &x, 1, used, weight, bias, &extras, &mut out, second);
        black_box(gradients.expect("valid"));
    })
}

fn add_relu<'a>(residual: &Tensor<'a, f32>) -> Extras<'a> {
    Extras { activation: Activation::Relu, residual: Some(residual.into()), mask: None }
}

/// Over all axes but the channels'.
fn moments(problem: &mut Problem) -> Run<'_> {
    let axes: Vec<usize> = (0..problem.shape.len()).filter(|&axis| axis != 1).collect();
    let Arguments { x, .. } = problem.arguments();
    Box::new(move || {
        black_box(normkit::moments(&x, &axes).expect("valid"));
    })
}

/// x as the weight of a convolution.
fn fold_conv_bn(problem: &mut Problem) -> Run<'_> {
    let Problem { shape, x, out, .. } = problem;
    let (mean, var) = (vec![0.25; shape[0]], vec![2.0; shape[0]]);
    Box::new(move || {
        let norm = BatchNormOf { mean: &mean, var: &var, weight: None, bias: None, eps: EPS };
        let conv = ConvOf { groups: 1, transposed: false };
        black_box(normkit::fold_conv_bn(x, shape, None, conv, norm, out).expect("valid"));
    })
}

// x as the weight of a convolution or a linear layer: a scale for each output channel.

fn weight_norm(problem: &mut Problem) -> Run<'_> {
    let scales = scales(problem.shape[0]);
    let Arguments { x, mut out, .. } = problem.arguments();
    Box::new(move || {
        black_box(normkit::weight_norm(&x, Some(0), &scales, &mut out).expect("valid"));
    })
}

fn weight_norm_backward(problem: &mut Problem) -> Run<'_> {
    let scales = scales(problem.shape[0]);
    let Arguments { x, dy, mut out, .. } = problem.arguments();
    let norms = normkit::weight_norm(&x, Some(0), &scales, &mut out).expect("valid");
    Box::new(move || {
        black_box(normkit::weight_norm_backward(&dy, &x, Some(0), &scales, &norms, &mut out).expect("valid"));
    })
}

/// One step from two vectors.
fn spectral_norm(problem: &mut Problem) -> Run<'_> {
    let (u, v) = (unit(problem.shape[0]), unit(problem.shape[1..].iter().product()));
    let Arguments { x, mut out, .. } = problem.arguments();
    Box::new(move || {
        black_box(normkit::spectral_norm(&x, 0, &u, &v, 1, TINY, &mut out).expect("valid"));
    })
}

fn spectral_norm_backward(problem: &mut Problem) -> Run<'_> {
    let (u, v) = (unit(problem.shape[0]), unit(problem.shape[1..].iter().product()));
    let Arguments { x, dy, mut out, .. } = problem.arguments();
    let of = normkit::spectral_norm(&x, 0, &u, &v, 1, TINY, &mut out).expect("valid");
    Box::new(move || {
        normkit::spectral_norm_backward(&dy, &x, 0, &of, &mut out).expect("valid");
    })
}

fn standardization(problem: &mut Problem) -> Run<'_> {
    let scales = scales(problem.shape[0]);
    let Arguments { x, mut out, .. } = problem.arguments();
    Box::new(move || {
        black_box(normkit::scaled_weight_standardization(&x, Some(&scales), LEAST, &mut out).expect("valid"));
    })
}

fn standardization_backward(problem: &mut Problem) -> Run<'_> {
    let scales = scales(problem.shape[0]);
    let Arguments { x, dy, mut out, .. } = problem.arguments();
    let of = normkit::scaled_weight_standardization(&x, Some(&scales), LEAST, &mut out).expect("valid");
    Box::new(move || {
        let gain = Some(&scales[..]);
        let dgain = normkit::scaled_weight_standardization_backward(&dy, &x, gain, LEAST, &of, &mut out);
        black_box(dgain.expect("valid"));
    })
}

/// The least norm and the least variance that a weight is divided by.
const TINY: f64 = 1e-12;
const LEAST: f64 = 1e-4;

fn scales(channels: usize) -> Vec<f64> {
    (0..channels).map(|c| 0.5 + c as f64 * 0.001).collect()
}

fn unit(len: usize) -> Vec<f64> {
    vec![(len as f64).sqrt().recip(); len]
}

/// The limit of what reads one tensor and writes one.
fn copy(problem: &mut Problem) -> Run<'_> {
    let Problem { x, out, .. } = problem;
    Box::new(move || in_parallel([x, x], out, |[x, _], out| out.copy_from_slice(x)))
}

/// The limit of what reads two tensors and writes one.
fn add(problem: &mut Problem) -> Run<'_> {
    let Problem { x, dy, out, .. } = problem;
    Box::new(move || {
        in_parallel([x, dy], out, |[a, b], out| {
            for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                *out = a + b;
            }
        });
    })
}

/// `task` on as many contiguous parts as there are threads, from 64 KiB each; the caller takes one of them.
fn in_parallel(inputs: [&[f32]; 2], out: &mut [f32], task: fn([&[f32]; 2], &mut [f32])) {
    static POOL: OnceLock<ThreadPool> = OnceLock::new();
    let threads = normkit::num_threads();
    let part = out.len().div_ceil(threads).max(1 << 14).next_multiple_of(16);
    if part >= out.len() {
        return task(inputs, out);
    }
    let pool = POOL.get_or_init(|| ThreadPoolBuilder::new().num_threads(threads - 1).build().expect("threads"));
    let [a, b] = inputs.map(|input| input.chunks(part));
    let mut parts = a.zip(b).zip(out.chunks_mut(part));
    let ((a, b), out) = parts.next().expect("not empty");
    pool.in_place_scope(|scope| {
        for ((a, b), out) in parts {
            scope.spawn(move |_| task([a, b], out));
        }
        task([a, b], out);
    });
}

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
        .configure_from_args();
    for table in TABLES {
        for shape in table.shapes {
            let size: usize = shape.iter().product();
            let text = shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
            let mut group = criterion.benchmark_group(format!("{}/{text}", table.name));
            group.sampling_mode(SamplingMode::Flat);
            // Made when the first op that is asked for runs.
            let mut problem = None;
            for &(name, tensors, prepare) in table.ops {
                group.throughput(Throughput::Bytes((tensors * size * size_of::<f32>()) as u64));
                let (mut problem, mut run) = (Some(&mut problem), None);
                group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                    let run = run.get_or_insert_with(|| {
                        let problem = problem.take().expect("prepared once");
                        prepare(problem.get_or_insert_with(|| Problem::new(shape)))
                    });
                    bencher.iter(run);
                });
            }
            group.finish();
        }
    }
    criterion.final_summary();
}
