use super::quality::Quality;
use crate::{
    ClientError,
    error::TooExpensive,
    proven::{ModelOffers, Offer},
};
use alloy_primitives::U256;
use rand::RngExt as _;

/// The most tokens that an answer can take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Of the prompt.
    pub input: u64,
    /// Generated, of all answers to the request together.
    pub output: u64,
}

impl Need {
    /// The most that the answer can cost with the prices of `offer`, in wei.
    pub fn price(self, offer: &Offer) -> u128 {
        let part = |tokens: u64, price: u128| price.saturating_mul(tokens.into());
        part(self.input, offer.price_input).saturating_add(part(self.output, offer.price_output))
    }
}

/// What an answer may cost. A node above a ceiling is never asked. Among the others a node is drawn with a probability in proportion to
///
/// `stake x (lowest price / its price)^2 x quality`
///
/// where prices are those of the whole answer at most, and quality is what [this proxy saw](super::Directory::succeeded) of the node.
/// Proportion to stake gives nothing to who splits one node into many; the square of the price means that who asks twice as much is asked a
/// quarter as often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ceilings {
    /// How many times the median price of the registered offers for the model a node may ask, for a prompt token and for a generated one;
    /// no such ceiling when 0.
    pub median_times: u32,
    /// Most wei for a token of any kind.
    pub token: Option<u128>,
    /// Most wei for a whole answer.
    pub answer: Option<u128>,
    /// Most wei a day (UTC) for all answers together.
    pub day: Option<U256>,
}

impl Default for Ceilings {
    /// Four times the median. Prices of honest nodes with different hardware and power differ by less.
    fn default() -> Self {
        Self { median_times: 4, token: None, answer: None, day: None }
    }
}

impl Ceilings {
    /// The offers within the ceilings; `answer` is the client's own ceiling for this answer.
    pub(super) fn allowed<'a>(
        &self,
        model: &'a ModelOffers,
        need: Need,
        answer: Option<u128>,
    ) -> Result<Vec<&'a Offer>, ClientError> {
        let times = |price: u128| match self.median_times {
            0 => u128::MAX,
            n => price.saturating_mul(n.into()),
        };
        let input_max = times(median(&model.offers, |o| o.price_input));
        let output_max = times(median(&model.offers, |o| o.price_output));
        let answer_max = answer.into_iter().chain(self.answer).min().unwrap_or(u128::MAX);
        let is_usual = |o: &Offer| o.price_input <= input_max && o.price_output <= output_max;
        let token_max = self.token.unwrap_or(u128::MAX);
        let is_cheap = |o: &Offer| o.price_input <= token_max && o.price_output <= token_max;
        let allowed: Vec<_> = model
            .offers
            .iter()
            .filter(|o| is_usual(o) && is_cheap(o) && need.price(o) <= answer_max)
            .collect();
        if !allowed.is_empty() || model.offers.is_empty() {
            return Ok(allowed);
        }
        let cheapest = model.offers.iter().min_by_key(|o| need.price(o)).unwrap_or(&model.offers[0]);
        let price = need.price(cheapest);
        let ceiling = if price > answer_max {
            format!(
                "the ceiling for an answer is {answer_max} wei: raise og-max-price or --max-answer, or set a smaller max_tokens (the answer may take up to {} prompt and {} generated tokens)",
                need.input, need.output
            )
        } else if !is_cheap(cheapest) {
            format!("the ceiling for a token is {token_max} wei: raise --max-token")
        } else {
            let n = self.median_times;
            format!("that is more than {n} times the median of one of the two prices: raise --max-median")
        };
        Err(ClientError::TooExpensive(Box::new(TooExpensive {
            model: model.manifest.name.clone(),
            node: cheapest.node,
            price,
            input: cheapest.price_input,
            output: cheapest.price_output,
            ceiling,
        })))
    }
}

/// The lower of two medians of a price: that of offers, and that of the stake behind them. Who wants to raise it must have more than half of
/// both: neither one node with a large stake nor many with a small one suffice.
fn median(offers: &[Offer], price: impl Fn(&Offer) -> u128) -> u128 {
    let mut sorted: Vec<_> = offers.iter().map(|o| (price(o), o.stake)).collect();
    sorted.sort_unstable();
    let by_count = sorted.get(sorted.len().saturating_sub(1) / 2).map_or(0, |(price, _)| *price);
    let total = sorted.iter().fold(U256::ZERO, |sum, (_, stake)| sum.saturating_add(*stake));
    let mut below = U256::ZERO;
    let by_stake = sorted.iter().find(|(_, stake)| {
        below = below.saturating_add(*stake);
        below >= total - below
    });
    by_count.min(by_stake.map_or(by_count, |(price, _)| *price))
}

/// Puts offers in the order in which they are asked.
pub(super) fn draw(offers: Vec<&Offer>, need: Need, quality: &Quality) -> Vec<Offer> {
    let nodes: Vec<_> = offers.iter().map(|o| o.node).collect();
    let factors = quality.factors(&nodes);
    // One more than the price, so that free offers can be compared, too.
    let price = |o: &Offer| need.price(o) as f64 + 1.0;
    let lowest = offers.iter().map(|o| price(o)).fold(f64::INFINITY, f64::min);
    let mut rng = rand::rng();
    let mut keyed: Vec<_> = offers
        .into_iter()
        .zip(factors)
        .map(|(offer, factor)| {
            let stake = (offer.stake / U256::from(1_000_000_000_000u64)).saturating_to::<u64>().max(1) as f64;
            let weight = stake * (lowest / price(offer)).powi(2) * factor;
            // Efraimidis and Spirakis (2006): the largest u^(1/w) comes first with probability in proportion to w.
            let key = rng.random::<f64>().max(f64::MIN_POSITIVE).ln() / weight;
            (quality.is_avoided(offer.node), key, offer)
        })
        .collect();
    keyed.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)));
    keyed.into_iter().map(|(_, _, offer)| offer.clone()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alloy_primitives::{Address, B256};
    use types::ModelManifest;

    fn offer(i: u8, stake: u64, input: u128, output: u128) -> Offer {
        Offer {
            node: Address::repeat_byte(i),
            endpoint: String::new(),
            stake: U256::from(stake) * U256::from(10).pow(U256::from(18)),
            price_input: input,
            price_output: output,
        }
    }

    fn model(offers: Vec<Offer>) -> ModelOffers {
        let manifest = ModelManifest {
            version: 1,
            name: "tiny".into(),
            architecture: "llama".into(),
            arithmetic_version: 1,
            context_length: 128,
            vocab_size: 100,
            parameters: 1,
            hyperparameters: vec![],
            weights_root: B256::ZERO,
            tokenizer_hash: B256::ZERO,
            template_hash: B256::ZERO,
            licence: String::new(),
        };
        ModelOffers { id: manifest.id().0, manifest, offers }
    }

    const NEED: Need = Need { input: 10, output: 10 };

    fn allowed(ceilings: Ceilings, offers: Vec<Offer>, answer: Option<u128>) -> Vec<u8> {
        let model = model(offers);
        let allowed = ceilings.allowed(&model, NEED, answer);
        allowed.map(|a| a.iter().map(|o| o.node[0]).collect()).unwrap_or_default()
    }

    #[test]
    fn neither_one_rich_node_nor_many_poor_ones_move_the_median() {
        let usual = || (1..4).map(|i| offer(i, 100, 1, 2)).collect::<Vec<_>>();
        let rich = [usual(), vec![offer(9, 50_000, 1, 1_000_000)]].concat();
        assert_eq!(allowed(Ceilings::default(), rich, None), [1, 2, 3]);
        let many: Vec<_> = (10..40).map(|i| offer(i, 1, 1, 1_000_000)).collect();
        assert_eq!(allowed(Ceilings::default(), [usual(), many].concat(), None), [1, 2, 3]);
        // Four times is the last that is allowed, for each of the two prices.
        let edge = [usual(), vec![offer(4, 100, 4, 8), offer(5, 100, 5, 2), offer(6, 100, 1, 9)]].concat();
        assert_eq!(allowed(Ceilings::default(), edge.clone(), None), [1, 2, 3, 4]);
        let no_median = Ceilings { median_times: 0, ..Ceilings::default() };
        assert_eq!(allowed(no_median, edge, None), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn the_error_names_the_cheapest_offer_and_the_ceiling() {
        let model = model(vec![offer(1, 100, 10, 20), offer(2, 1, 9, 20)]);
        let message =
            |ceilings: Ceilings, answer| ceilings.allowed(&model, NEED, answer).unwrap_err().to_string();
        let cheapest =
            |text: &str| text.contains(&Address::repeat_byte(2).to_string()) && text.contains("290 wei");
        let text = message(Ceilings::default(), Some(289));
        assert!(cheapest(&text) && text.contains("og-max-price") && text.contains("289"), "{text}");
        assert_eq!(Ceilings::default().allowed(&model, NEED, Some(290)).unwrap().len(), 1);
        let text = message(Ceilings { answer: Some(5), ..Ceilings::default() }, Some(1_000_000));
        assert!(cheapest(&text) && text.contains("is 5 wei"), "the lower of two ceilings holds: {text}");
        let text = message(Ceilings { token: Some(19), ..Ceilings::default() }, None);
        assert!(cheapest(&text) && text.contains("--max-token"), "{text}");
    }

    #[test]
    fn price_stake_and_quality_decide() {
        let offers = [offer(1, 100, 10, 10), offer(2, 100, 20, 20), offer(3, 400, 20, 20)];
        let quality = Quality::default();
        let mut first = [0; 4];
        for _ in 0..4000 {
            first[usize::from(draw(offers.iter().collect(), NEED, &quality)[0].node[0])] += 1;
        }
        // Weights 100, 25 and 100.
        assert!((1500..2100).contains(&first[1]) && (1500..2100).contains(&first[3]), "{first:?}");
        assert!((300..600).contains(&first[2]), "{first:?}");
        let mut bad = Quality::default();
        bad.failed(Address::repeat_byte(1));
        let order = draw(offers.iter().collect(), NEED, &bad);
        assert_eq!(order[2].node, Address::repeat_byte(1), "who failed just now comes last");
    }
}
