//! An answer in dispute, as a party knows it.

use crate::{
    inference::convert::{SEPARATOR, choosing},
    replay::{Difference, replay_answer},
};
use anyhow::{Context as _, anyhow, ensure};
use api::openai::{Endpoint, GenerateRequest};
use engine::{
    Model,
    dispute::{Dispute, Player, Replayed, TensorStore, masks},
    replay,
};
use std::sync::Arc;
use types::{Claim, Disclosure, Options};

/// Whether the disclosed tokens and texts are those that the claim commits to.
pub(crate) fn is_of(claim: &Claim, disclosed: &Disclosure) -> bool {
    use types::{Tokens, commit_bytes, commit_tokens};
    let (request, response) =
        commit_bytes(&disclosed.nonce, disclosed.request.as_bytes(), disclosed.response.as_bytes());
    (request, response) == (claim.request_hash, claim.response_hash)
        && commit_tokens(&disclosed.nonce, Tokens::Prompt, &disclosed.prompt_tokens) == claim.prompt_hash
        && commit_tokens(&disclosed.nonce, Tokens::Output, &disclosed.output_tokens) == claim.output_hash
}

/// What this machine says of an answer.
pub(crate) fn judge(model: &Arc<Model>, claim: &Claim, disclosed: &Disclosure) -> Result<(), Difference> {
    let count = |list: &[u32]| list.iter().filter(|t| **t != SEPARATOR).count() as u64;
    let counted = (count(&disclosed.prompt_tokens), count(&disclosed.output_tokens));
    if counted != (u64::from(claim.prompt_tokens), u64::from(claim.completion_tokens)) {
        return Err("the receipt counts other tokens than there are".into());
    }
    if claim.computed_price() != Some(claim.price) || claim.completion_tokens > claim.max_tokens {
        return Err(Difference::Computation("the receipt contradicts itself".into()));
    }
    replay_answer(model, claim, disclosed).map(|_| ())
}

/// A player who defends the answer, or refutes it with what this machine computes.
pub(crate) fn player(
    model: &Arc<Model>,
    claim: &Claim,
    disclosed: &Disclosure,
    defend: bool,
) -> anyhow::Result<Player> {
    ensure!(claim.choices == 1, "only single answers can be disputed");
    let body = disclosed.request.as_bytes();
    let endpoint = Endpoint::of(body).context("the request is for no endpoint that is known here")?;
    let request = GenerateRequest::read(endpoint, body).map_err(|e| anyhow!(e))?;
    let by = choosing(model, &request.job, claim.sampling, 0)?;
    let options = Options::new(&disclosed.nonce, &by.logit_bias, by.constraint.is_some());
    let prompt = disclosed.prompt_tokens.clone();
    let mut output = disclosed.output_tokens.clone();
    let vocabulary = model.tokenizer().vocabulary();
    if !defend {
        // Their tokens up to the first that this machine would not have chosen: there the two sides part.
        let found = replay(model, &prompt, &output, by.clone())?;
        if let (Some(i), Some(token)) = (found.first_difference, found.chosen) {
            output[i] = token;
        }
    }
    let masks = match &by.constraint {
        Some(constraint) => masks(constraint.clone(), &output, vocabulary)?,
        None => Vec::new(),
    };
    let trace = Replayed::new(model.clone(), &prompt, &output)?;
    let weights = TensorStore::open(model)?;
    let (model, claim, nonce) = (model.clone(), claim.clone(), disclosed.nonce);
    Ok(Player::new(Dispute {
        model,
        weights,
        claim,
        nonce,
        prompt,
        output,
        options,
        masks,
        trace: Box::new(trace),
    }))
}
