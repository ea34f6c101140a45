//! One run of the trainer: data opened, progress shown, samples drawn, the model projected.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use tern_datasets::batches::ValidationSet;
use tern_datasets::prepare::Prepared;
use tern_format::packed::{PackedModel, Provenance};
use tern_model::Decoder;
use tern_train::checkpoint::State;
use tern_train::config::RunConfig;
use tern_train::directory::RunDirectory;
use tern_train::export::{Surroundings, project};
use tern_train::trainer::{Outcome, Run, train};

use super::progress::Progress;
use crate::terminal::Terminal;

/// Everything that a run needs, checked and opened.
pub(crate) struct Session {
    pub(crate) config: RunConfig,
    pub(crate) directory: RunDirectory,
    pub(crate) data: Prepared,
    pub(crate) device: String,
    pub(crate) stop_at: Option<u64>,
    pub(crate) resume: bool,
}

/// Set by Ctrl-C; a second Ctrl-C ends the program at once.
pub(crate) fn interruptions() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(interrupted)
}

impl Session {
    /// Trains until the end, the stop or the interruption.
    pub(crate) fn train(&self, terminal: &Terminal, interrupted: &AtomicBool) -> Result<Outcome> {
        let device = tern_model::device::find(&self.device)?.autodiff();
        let Prepared { tokenizer, summary, .. } = &self.data;
        let (rows, ids) = (self.config.model.vocab_size, summary.vocab_size);
        anyhow::ensure!(
            ids <= rows,
            "model.vocab_size is {rows}, but the tokenizer of {} has {ids} ids",
            self.data.directory.display()
        );
        let batches = self.data.batches(&self.config.data, self.config.seed)?;
        let validation = self.validation()?;
        // Whatever can be wrong with settings or data has been refused by now.
        self.directory.open(&self.config, self.resume)?;
        let run = Run {
            config: &self.config,
            directory: &self.directory,
            device: &device,
            batches: &batches,
            validation: &validation,
            validation_bytes: validation.text_bytes(tokenizer)?,
            data_sha256: &summary.sha256,
            stop_at: self.stop_at,
            resume: self.resume,
        };
        let mut progress = Progress::new(self, terminal, interrupted);
        let outcome = train(&run, &mut progress);
        progress.finish();
        Ok(outcome?)
    }

    /// The validation windows.
    pub(crate) fn validation(&self) -> Result<ValidationSet> {
        Ok(self.data.validation(&self.config.data)?)
    }

    /// The packed model of `model`; the head of `check` is measured with it and goes into the file.
    pub(crate) fn project(
        &self,
        model: &Decoder,
        state: Option<&State>,
        check: Option<&ValidationSet>,
    ) -> Result<PackedModel> {
        let device = tern_model::device::find(&self.device)?;
        let surroundings = Surroundings {
            config: &self.config,
            tokenizer: &self.data.tokenizer,
            bos: self.data.summary.bos,
            eos: self.data.summary.eos,
            provenance: state.map(|state| Provenance {
                run: self.directory.path().display().to_string(),
                step: state.step,
                tokens: state.tokens,
                data_sha256: state.data_sha256.clone(),
                data_licence: self.config.data.licence.clone(),
                teacher_licence: None,
                commit: env!("TERN_COMMIT").into(),
                val_loss: state.val_loss,
            }),
        };
        Ok(project(model, &surroundings, check, &device)?)
    }
}
