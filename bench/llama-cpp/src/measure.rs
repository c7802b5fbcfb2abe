use anyhow::{Context as _, ensure};
use llama_cpp_2::{context::LlamaContext, llama_batch::LlamaBatch, token::LlamaToken};
use std::time::Instant;

/// What one repetition does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// Tokens of each sequence's prompt.
    pub(crate) prompt: u32,
    /// Calls with one token of every sequence, after the prompts; 0 times the prompt instead.
    pub(crate) steps: u32,
}

/// A context and its sequences.
pub(crate) struct Session<'a> {
    context: LlamaContext<'a>,
    batch: LlamaBatch<'a>,
    vocabulary: i32,
    sequences: usize,
    likeliest: usize,
}

/// The token at `position` of `sequence`: spread over the vocabulary, the same in every run.
pub(crate) fn token(vocabulary: i32, sequence: usize, position: u32) -> LlamaToken {
    let spread = u64::from(position) * 7_919 + sequence as u64 * 104_729 + 1_000;
    LlamaToken::new((spread % vocabulary.max(1) as u64) as i32)
}

impl<'a> Session<'a> {
    pub(crate) fn new(context: LlamaContext<'a>, vocabulary: i32, sequences: usize) -> anyhow::Result<Self> {
        ensure!(vocabulary > 0, "the model has no vocabulary");
        let batch = LlamaBatch::new(context.n_batch() as usize, 1);
        Ok(Self { context, batch, vocabulary, sequences, likeliest: 0 })
    }

    /// Runs once from empty caches; seconds of the timed part.
    pub(crate) fn run(&mut self, run: Run) -> anyhow::Result<f64> {
        self.context.clear_kv_cache();
        let mut started = Instant::now();
        for sequence in 0..self.sequences {
            self.batch.clear();
            for position in 0..run.prompt {
                self.add(sequence, position, position + 1 == run.prompt)?;
            }
            self.decode()?;
        }
        if run.steps > 0 {
            started = Instant::now();
        }
        for step in 0..run.steps {
            self.batch.clear();
            for sequence in 0..self.sequences {
                self.add(sequence, run.prompt + step, true)?;
            }
            self.decode()?;
        }
        let seconds = started.elapsed().as_secs_f64();
        self.check()?;
        Ok(seconds)
    }

    /// Id of the largest logit at the end of the last run's last sequence, to compare two programs.
    pub(crate) fn likeliest(&self) -> usize {
        self.likeliest
    }

    fn add(&mut self, sequence: usize, position: u32, logits: bool) -> anyhow::Result<()> {
        let id = token(self.vocabulary, sequence, position);
        self.batch.add(id, i32::try_from(position)?, &[i32::try_from(sequence)?], logits)?;
        Ok(())
    }

    /// Computes the batch and waits for the last token's logits.
    fn decode(&mut self) -> anyhow::Result<()> {
        self.context.decode(&mut self.batch).context("llama_decode failed; --log shows why")?;
        let logits = self.context.get_logits_ith(self.batch.n_tokens() - 1);
        std::hint::black_box(logits[0]);
        Ok(())
    }

    /// A speed means nothing when the numbers are broken.
    fn check(&mut self) -> anyhow::Result<()> {
        let logits = self.context.get_logits_ith(self.batch.n_tokens() - 1);
        ensure!(logits.iter().all(|l| l.is_finite()), "the model computes NaN or infinity");
        let likeliest = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        self.likeliest = likeliest.map_or(0, |(id, _)| id);
        Ok(())
    }
}
