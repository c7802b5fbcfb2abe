use alloy_primitives::B256;
use commonware_codec::{DecodeExt as _, Encode as _, Read as _};
use commonware_consensus::{
    Viewable as _,
    simplex::types::{Certificate, Finalize, Notarize, Proposal, Vote},
    types::{Epoch, Round, View},
};
use commonware_cryptography::{certificate::Verifier as _, ed25519::PublicKey, keccak256::Digest};
use commonware_p2p::{Receiver, Recipients, Sender, utils::mux::Muxer};
use commonware_runtime::{Clock as _, Handle, Spawner as _, Supervisor as _, deterministic};
use commonware_utils::SystemTimeExt as _;
use consensus::{
    Block, Chain, Context, ValidatorSecret,
    engine::{self, CHANNELS, Scheme},
};
use futures::FutureExt as _;
use rand::RngExt as _;
use std::{sync::Arc, time::Duration};

/// What a Byzantine validator does instead of its duty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// Proposes one block to half of the others and another one to the rest.
    Conflict,
    /// Proposes blocks with a wrong state root.
    WrongState,
    /// Votes for a block of its own that it shows to nobody.
    Withhold,
    /// Votes for everything, and for its contrary.
    Equivocate,
    /// Sends random bytes.
    Garbage,
}

/// All attacks.
pub const ATTACKS: [Attack; 5] =
    [Attack::Conflict, Attack::WrongState, Attack::Withhold, Attack::Equivocate, Attack::Garbage];

/// A Byzantine validator of epoch 0. It knows what the honest validator with `chain` knows.
pub(crate) struct Adversary {
    pub(crate) attack: Attack,
    pub(crate) secret: ValidatorSecret,
    pub(crate) me: PublicKey,
    pub(crate) peers: Vec<PublicKey>,
    pub(crate) chain: Arc<Chain>,
}

impl Adversary {
    /// Runs it until the runtime ends; `channels` are those of an honest validator.
    pub(crate) fn start<S, R>(
        self,
        context: deterministic::Context,
        channels: [(S, R); CHANNELS],
    ) -> Handle<()>
    where
        S: Sender<PublicKey = PublicKey>,
        R: Receiver<PublicKey = PublicKey>,
    {
        context.spawn(move |context| self.run(context, channels))
    }

    async fn run<S, R>(self, mut context: deterministic::Context, channels: [(S, R); CHANNELS])
    where
        S: Sender<PublicKey = PublicKey>,
        R: Receiver<PublicKey = PublicKey>,
    {
        let [votes, certificates, _resolver, (mut blocks, _), (mut backfill, _), (mut transactions, _)] =
            channels;
        let (mux, mut votes) = Muxer::new(context.child("votes"), votes.0, votes.1);
        mux.start();
        let (mux, mut certificates) =
            Muxer::new(context.child("certificates"), certificates.0, certificates.1);
        mux.start();
        let (mut vote_sender, mut vote_receiver) = votes.register(0).await.expect("a free channel");
        let (mut certificate_sender, mut certificate_receiver) =
            certificates.register(0).await.expect("a free channel");
        let set = self.chain.network().first_set();
        let genesis = self.chain.genesis().hash();
        let scheme = engine::scheme(&set, genesis, &self.secret).expect("a usable set").expect("a validator");
        let index =
            set.members.iter().position(|v| v.peer == self.secret.peer()).expect("a validator") as u64;
        loop {
            futures::select! {
                message = vote_receiver.recv().fuse() => {
                    let Ok((_, message)) = message else { return };
                    if self.attack == Attack::Equivocate
                        && let Ok(vote) = Vote::<Scheme, Digest>::decode(message)
                    {
                        for vote in contradictions(&scheme, &vote) {
                            vote_sender.send(Recipients::All, vote.encode(), true);
                        }
                    }
                }
                message = certificate_receiver.recv().fuse() => {
                    let Ok((_, mut message)) = message else { return };
                    let cfg = Scheme::certificate_codec_config_unbounded();
                    let certificate = Certificate::<Scheme, Digest>::read_cfg(&mut message, &cfg);
                    let Ok(Certificate::Notarization(n)) = certificate else { continue };
                    let view = n.view().get() + 1;
                    if view % set.members.len() as u64 != index {
                        continue;
                    }
                    context.sleep(Duration::from_millis(300)).await;
                    for (block, to) in self.proposals(&context, view, &n.proposal) {
                        let round = Round::new(Epoch::zero(), View::new(view));
                        let proposal = Proposal::new(round, n.view(), Digest::from(block.hash().0));
                        let vote = Notarize::<Scheme, Digest>::sign(&scheme, proposal).expect("a signer");
                        if self.attack != Attack::Withhold {
                            blocks.send(Recipients::Some(to.clone()), block.encode(), true);
                        }
                        vote_sender.send(Recipients::Some(to), Vote::Notarize(vote).encode(), true);
                    }
                }
                () = context.sleep(Duration::from_millis(100)).fuse() => {
                    if self.attack == Attack::Garbage {
                        for _ in 0..4 {
                            let length = context.random_range(0..2000usize);
                            let bytes: Vec<u8> = (0..length).map(|_| context.random()).collect();
                            vote_sender.send(Recipients::All, bytes.clone(), true);
                            certificate_sender.send(Recipients::All, bytes.clone(), true);
                            blocks.send(Recipients::All, bytes.clone(), true);
                            backfill.send(Recipients::All, bytes.clone(), true);
                            transactions.send(Recipients::All, bytes, true);
                        }
                    }
                }
            }
        }
    }

    /// The blocks that it proposes in its turn, and to whom.
    fn proposals(
        &self,
        context: &deterministic::Context,
        view: u64,
        parent: &Proposal<Digest>,
    ) -> Vec<(Block, Vec<PublicKey>)> {
        let Some(executed) = self.chain.executed(&B256::new(parent.payload.0)) else { return vec![] };
        let round = Round::new(Epoch::zero(), View::new(view));
        let block_context =
            Context { round, leader: self.me.clone(), parent: (parent.view(), parent.payload) };
        let now = context.current().epoch_millis();
        let propose =
            |at: u64| Block::propose(&self.chain, &self.secret, block_context.clone(), at, &executed).ok();
        let Some(block) = propose(now) else { return vec![] };
        match self.attack {
            Attack::Conflict => {
                let (a, b) = self.peers.split_at(self.peers.len() / 2);
                let Some(other) = propose(now + 1) else { return vec![] };
                vec![(block, a.to_vec()), (other, b.to_vec())]
            }
            Attack::WrongState => {
                let mut inner = ledger::Block::clone(block.ledger_block());
                inner.header.state_root = B256::repeat_byte(0xbd);
                let wrong = Block::new(block_context, block.timestamp_ms(), *block.reveal(), Arc::new(inner));
                vec![(wrong, self.peers.clone())]
            }
            Attack::Withhold => vec![(block, self.peers.clone())],
            Attack::Equivocate | Attack::Garbage => vec![],
        }
    }
}

/// A vote for what somebody voted for, and one for something else.
fn contradictions(scheme: &Scheme, vote: &Vote<Scheme, Digest>) -> Vec<Vote<Scheme, Digest>> {
    let other = |p: &Proposal<Digest>| Proposal::new(p.round, p.parent, Digest::from([0xee; 32]));
    match vote {
        Vote::Notarize(n) => [n.proposal.clone(), other(&n.proposal)]
            .into_iter()
            .filter_map(|p| Notarize::sign(scheme, p).map(Vote::Notarize))
            .collect(),
        Vote::Finalize(f) => [f.proposal.clone(), other(&f.proposal)]
            .into_iter()
            .filter_map(|p| Finalize::sign(scheme, p).map(Vote::Finalize))
            .collect(),
        Vote::Nullify(_) => vec![],
    }
}
