//! Evidence of a group: what holds, and everything that does not.
#![allow(missing_docs, clippy::unwrap_used)]

use replicated::{ANCHOR, Group, Member, ReplicatedProducer, ReplicatedVerifier};
use types::{Address, B256, Claim, Evidence, Rung, Sampling, replica, signing};
use verify::{Anchors, Context, NoAnchors, Producer as _, Rejection, Verdict, Verifier as _};

const CONTEXT: Context<'static> = Context { now_ms: 0, anchors: &NoAnchors, work_max: 100 };

struct Wanted(Vec<u8>);

impl Anchors for Wanted {
    fn get(&self, key: &str) -> Option<&[u8]> {
        (key == ANCHOR).then_some(&self.0)
    }
}

fn claim(node: Address) -> Claim {
    Claim {
        chain_id: 1,
        genesis: B256::repeat_byte(1),
        node,
        model: B256::repeat_byte(2),
        request_hash: B256::repeat_byte(3),
        // The bytes of the response name the receipt, so no two nodes have the same.
        response_hash: node.into_word(),
        prompt_hash: B256::repeat_byte(4),
        output_hash: B256::repeat_byte(5),
        prompt_tokens: 3,
        completion_tokens: 4,
        max_tokens: 5,
        choices: 1,
        sampling: Sampling::GREEDY,
        options: B256::ZERO,
        trace_root: B256::repeat_byte(6),
        price_input: 1,
        price_output: 2,
        price: 11,
        payer: Address::ZERO,
        anchor_number: 0,
        anchor_hash: B256::ZERO,
        time_ms: 1_700_000_000_000,
        arithmetic_class: 1,
        arithmetic_version: 1,
        rung_requested: 3,
        rung_achieved: 3,
    }
}

/// Keys of `n` nodes in the order of their addresses.
fn keys(n: u8) -> Vec<(Address, B256)> {
    let secret = |i| B256::repeat_byte(i);
    let mut keys: Vec<_> = (1..=n).map(|i| (signing::address_of(&secret(i)).unwrap(), secret(i))).collect();
    keys.sort_unstable();
    keys
}

fn member(group: B256, secret: &B256, claim: Claim) -> Member {
    let salt = B256::repeat_byte(0x55);
    let c = replica::commitment(group, claim.node, claim.output_hash, claim.trace_root, salt);
    let sign = |digest| signing::sign(secret, digest).unwrap().into();
    Member { commitment: sign(c), salt, signature: sign(claim.digest()), claim }
}

/// A group of `n` in which member `i` claims what `change` makes of the honest claim.
fn group(n: u8, k: u8, change: impl Fn(usize, &mut Claim)) -> Group {
    let keys = keys(n);
    let asked: Vec<_> = keys.iter().map(|(node, _)| *node).collect();
    let group = replica::group_hash(B256::repeat_byte(3), &asked).unwrap();
    let members = keys.iter().enumerate().map(|(i, (node, secret))| {
        let mut claim = claim(*node);
        change(i, &mut claim);
        member(group, secret, claim)
    });
    Group { group, k, members: members.collect(), asked }
}

fn honest(n: u8, k: u8) -> Group {
    group(n, k, |_, _| {})
}

fn lie(claim: &mut Claim) {
    claim.output_hash = B256::repeat_byte(0xee);
    claim.trace_root = B256::repeat_byte(0xef);
}

fn evidence(group: &Group) -> Evidence {
    Evidence { mode: Rung::Replicated.mode(), body: group.encode().into() }
}

/// Checks the claim of member `i`.
fn check(group: &Group, i: usize) -> Result<String, Rejection> {
    let found = ReplicatedVerifier.check(&group.members[i].claim, &evidence(group), &CONTEXT)?;
    assert_eq!((found.verdict, found.rung), (Verdict::Supports, Rung::Replicated));
    Ok(found.summary)
}

fn unbound(group: &Group, i: usize, words: &str) {
    match check(group, i) {
        Err(Rejection::Unbound(message)) => assert!(message.contains(words), "{message}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn nodes_that_agree_back_each_others_claims() {
    for n in [2, 3, 7, 16] {
        let group = honest(n, 2);
        for i in 0..usize::from(n) {
            assert!(check(&group, i).unwrap().starts_with(&format!("{n} of {n} ")));
        }
        let work = ReplicatedVerifier.work(&evidence(&group));
        assert!(work >= 2 * u64::from(n) && work <= 100, "{n}: {work}");
    }
}

#[test]
fn prices_and_blocks_may_differ() {
    let group = group(3, 3, |i, c| {
        c.price_input = i as u128;
        c.price = c.computed_price().unwrap();
        c.anchor_number = i as u64;
        c.payer = Address::repeat_byte(i as u8);
    });
    assert!(check(&group, 0).is_ok());
}

#[test]
fn a_minority_is_shown_and_not_backed() {
    let group = group(3, 2, |i, c| {
        if i == 1 {
            lie(c)
        }
    });
    assert!(check(&group, 0).unwrap().starts_with("2 of 3 "));
    assert!(check(&group, 2).is_ok());
    assert!(matches!(check(&group, 1), Err(Rejection::Untrusted(_))));
}

#[test]
fn half_is_no_majority_and_k_counts() {
    assert!(matches!(
        check(
            &group(4, 2, |i, c| if i < 2 {
                lie(c)
            }),
            3
        ),
        Err(Rejection::Untrusted(_))
    ));
    assert!(
        check(
            &group(5, 3, |i, c| if i < 2 {
                lie(c)
            }),
            3
        )
        .is_ok()
    );
    assert!(matches!(
        check(
            &group(5, 4, |i, c| if i < 2 {
                lie(c)
            }),
            3
        ),
        Err(Rejection::Untrusted(_))
    ));
    for k in [0, 1, 17, 255] {
        assert!(matches!(check(&honest(3, k), 0), Err(Rejection::Malformed(_))), "{k}");
    }
}

#[test]
fn silent_nodes_count_as_if_they_disagreed() {
    let mut group = honest(5, 2);
    group.members.truncate(3);
    assert!(check(&group, 0).unwrap().starts_with("3 of 5 "));
    group.members.truncate(2);
    assert!(matches!(check(&group, 0), Err(Rejection::Untrusted(_))));
}

#[test]
fn the_reader_may_want_more() {
    let group = honest(3, 3);
    let claim = &group.members[0].claim;
    let ask = |wanted: Vec<u8>, group: &Group| {
        let context = Context { anchors: &Wanted(wanted), ..CONTEXT };
        ReplicatedVerifier.check(claim, &evidence(group), &context).map(|_| ())
    };
    assert_eq!(ask(vec![3], &group), Ok(()));
    assert!(matches!(ask(vec![4], &group), Err(Rejection::Untrusted(_))));
    assert!(matches!(ask(vec![3], &Group { k: 2, ..group.clone() }), Err(Rejection::Untrusted(_))));
    for bad in [vec![], vec![0, 3]] {
        assert!(matches!(ask(bad, &group), Err(Rejection::Untrusted(_))));
    }
}

#[test]
fn every_part_of_an_answer_must_be_the_same() {
    let changes: [fn(&mut Claim); 15] = [
        |c| c.model = B256::ZERO,
        |c| c.prompt_hash = B256::ZERO,
        |c| c.output_hash = B256::ZERO,
        |c| c.trace_root = B256::ZERO,
        |c| c.prompt_tokens += 1,
        |c| c.completion_tokens += 1,
        |c| c.max_tokens += 1,
        |c| c.choices += 1,
        |c| c.sampling.seed += 1,
        |c| c.sampling.temperature = 0.5,
        |c| c.options = B256::repeat_byte(1),
        |c| c.time_ms += 1,
        |c| c.arithmetic_class = 0,
        |c| c.arithmetic_version += 1,
        |c| c.rung_requested = 1,
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let apart = group(2, 2, |i, c| {
            if i == 0 {
                change(c)
            }
        });
        assert!(matches!(check(&apart, 1), Err(Rejection::Untrusted(_))), "change {at}");
    }
}

#[test]
fn a_member_counts_once() {
    let mut group = honest(3, 2);
    group.members[1] = group.members[0].clone();
    assert!(matches!(check(&group, 0), Err(Rejection::Malformed(_))));
    let mut group = honest(3, 2);
    group.members.swap(0, 1);
    assert!(matches!(check(&group, 0), Err(Rejection::Malformed(_))));
}

#[test]
fn claims_about_something_else_are_foreign() {
    let foreign: [fn(&mut Claim); 3] =
        [|c| c.request_hash = B256::ZERO, |c| c.genesis = B256::ZERO, |c| c.chain_id = 2];
    for change in foreign {
        unbound(
            &group(3, 2, |i, c| {
                if i == 0 {
                    change(c)
                }
            }),
            1,
            "another request",
        );
    }
    // A claim of a member's node that is not the one in the group.
    let group = honest(3, 2);
    let mut other = group.members[0].claim.clone();
    other.price += 1;
    let found = ReplicatedVerifier.check(&other, &evidence(&group), &CONTEXT);
    assert!(matches!(found, Err(Rejection::Unbound(_))), "{found:?}");
}

#[test]
fn nobody_can_be_left_out_or_added() {
    let group = group(3, 2, |i, c| {
        if i == 1 {
            lie(c)
        }
    });
    // Left out of those asked: the group has another name, and with that name nobody committed.
    let mut hidden = group.clone();
    hidden.asked.remove(1);
    hidden.members.remove(1);
    unbound(&hidden, 0, "left out");
    hidden.group = replica::group_hash(B256::repeat_byte(3), &hidden.asked).unwrap();
    unbound(&hidden, 0, "did not commit");
    // Two friends are a majority of two, but they were asked as two of four.
    let mut friends = honest(4, 2);
    friends.members.truncate(2);
    friends.asked.truncate(2);
    unbound(&friends, 0, "left out");
    // A member that was not asked.
    let mut added = honest(4, 2);
    added.asked.pop();
    added.group = replica::group_hash(B256::repeat_byte(3), &added.asked).unwrap();
    let keys = keys(4);
    for (m, (_, secret)) in added.members.iter_mut().zip(&keys) {
        *m = member(added.group, secret, m.claim.clone());
    }
    unbound(&added, 0, "was not asked");
}

#[test]
fn a_copied_answer_has_no_commitment() {
    let keys = keys(3);
    // The copycat committed to something, saw the answer of another, and claims that.
    let mut copied = honest(3, 2);
    let something = replica::commitment(copied.group, keys[1].0, B256::ZERO, B256::ZERO, B256::ZERO);
    copied.members[1].commitment = signing::sign(&keys[1].1, something).unwrap().into();
    unbound(&copied, 0, "did not commit");
    // It passes another node's commitment on as its own.
    let mut borrowed = honest(3, 2);
    borrowed.members[1].commitment = borrowed.members[0].commitment;
    unbound(&borrowed, 0, "did not commit");
    // It uses what it committed to in another group.
    let mut other = honest(3, 2);
    other.members[1] = member(B256::repeat_byte(7), &keys[1].1, other.members[1].claim.clone());
    unbound(&other, 0, "did not commit");
    // It opens with another salt.
    let mut salted = honest(3, 2);
    salted.members[1].salt = B256::ZERO;
    unbound(&salted, 0, "did not commit");
}

#[test]
fn signatures_are_those_of_the_members() {
    let mut forged = honest(3, 2);
    let thief = B256::repeat_byte(0x77);
    forged.members[2].signature = signing::sign(&thief, forged.members[2].claim.digest()).unwrap().into();
    unbound(&forged, 0, "not signed");
    let mut broken = honest(3, 2);
    broken.members[2].signature = Default::default();
    unbound(&broken, 0, "not signed");
}

#[test]
fn only_canonical_bytes_are_read() {
    let group = honest(3, 2);
    let claim = &group.members[0].claim;
    let good = group.encode();
    let read = |body: Vec<u8>| {
        let evidence = Evidence { mode: Rung::Replicated.mode(), body: body.into() };
        ReplicatedVerifier.check(claim, &evidence, &CONTEXT)
    };
    assert!(read(good.clone()).is_ok());
    assert!(matches!(read([&good[..], &[0]].concat()), Err(Rejection::Malformed(_))));
    for cut in 0..good.len() {
        assert!(matches!(read(good[..cut].to_vec()), Err(Rejection::Malformed(_))), "{cut}");
    }
    // The same value with k as a string of one byte.
    // It comes after the header of the list (3 bytes) and the name of the group (33).
    let at = 36;
    assert_eq!(good[at], 2);
    let mut longer = good.clone();
    longer.splice(at..=at, [0x81, 2]);
    assert!(matches!(read(longer), Err(Rejection::Malformed(_))));
    assert!(matches!(read(vec![0xc0; 1 << 20]), Err(Rejection::Malformed(_))));
    // Seventeen nodes are not a group.
    let mut many = honest(16, 2);
    many.asked.push(Address::repeat_byte(0xff));
    assert!(matches!(check(&many, 0), Err(Rejection::Unbound(_))));
}

#[test]
fn no_flipped_bit_is_accepted() {
    let group = honest(2, 2);
    let claim = &group.members[0].claim;
    let good = evidence(&group);
    for bit in 0..good.body.len() * 8 {
        let mut body = good.body.to_vec();
        body[bit / 8] ^= 1 << (bit % 8);
        let evidence = Evidence { mode: good.mode, body: body.into() };
        assert!(ReplicatedVerifier.check(claim, &evidence, &CONTEXT).is_err(), "bit {bit}");
    }
}

#[test]
fn the_producer_makes_only_what_holds() {
    let group = group(3, 2, |i, c| {
        if i == 1 {
            lie(c)
        }
    });
    let made = ReplicatedProducer.produce(&group.members[0].claim, &group).unwrap();
    assert_eq!(made, evidence(&group));
    assert!(ReplicatedProducer.produce(&group.members[1].claim, &group).is_err());
}
