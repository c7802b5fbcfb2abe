//! Insertion and removal.

use super::{
    Leaf, Link, NodeId, Reader, Trie,
    node::{Body, Children, Node},
};
use crate::LedgerError;
use alloy_primitives::B256;
use alloy_trie::Nibbles;
use std::sync::Arc;

/// What an update needs, and what it leaves behind: the ids of nodes that the new trie no longer has.
pub(crate) struct Update<'a> {
    pub(crate) reader: &'a Reader,
    pub(crate) dropped: &'a mut Vec<NodeId>,
}

impl Update<'_> {
    /// Takes the node out of a link for changing: the node itself when nobody else has it, else a copy.
    fn open<L: Leaf>(&mut self, link: Link<L>) -> Result<Body<L>, LedgerError> {
        let node = match link {
            Link::Loaded(node) => node,
            stored => self.reader.resolve(&stored)?,
        };
        match Arc::try_unwrap(node) {
            Ok(node) => {
                if node.id.get().is_some() {
                    self.dropped.push(node.id);
                }
                Ok(node.body)
            }
            Err(shared) => {
                // It may be written later, for an older state; its id is looked at then.
                self.dropped.push(shared.id.clone());
                let mut body = shared.body.clone();
                body.cut();
                Ok(body)
            }
        }
    }
}

impl<L: Leaf> Trie<L> {
    /// Puts `leaf` under `key`.
    pub(crate) fn insert(&mut self, key: B256, leaf: L, update: &mut Update<'_>) -> Result<(), LedgerError> {
        let path = Nibbles::unpack_array(&key.0);
        let root = match self.0.take() {
            None => Link::Loaded(Node::new(Body::Leaf { path, leaf })),
            Some(link) => insert(link, path, leaf, update)?,
        };
        self.0 = Some(root);
        Ok(())
    }

    /// Removes what is under `key`, if anything is.
    pub(crate) fn remove(&mut self, key: B256, update: &mut Update<'_>) -> Result<(), LedgerError> {
        // Looking first keeps removals of nothing from copying nodes.
        if self.get(key, update.reader)?.is_some()
            && let Some(link) = self.0.take()
        {
            self.0 = remove(link, Nibbles::unpack_array(&key.0), update)?;
        }
        Ok(())
    }
}

fn loaded<L: Leaf>(body: Body<L>) -> Link<L> {
    Link::Loaded(Node::new(body))
}

/// `link` below `path`.
fn extended<L: Leaf>(path: Nibbles, link: Link<L>) -> Link<L> {
    match path.is_empty() {
        true => link,
        false => loaded(Body::Extension { path, child: link }),
    }
}

fn insert<L: Leaf>(
    link: Link<L>,
    rest: Nibbles,
    leaf: L,
    update: &mut Update<'_>,
) -> Result<Link<L>, LedgerError> {
    Ok(loaded(match update.open(link)? {
        Body::Leaf { path, .. } if path == rest => Body::Leaf { path, leaf },
        Body::Leaf { path, leaf: old } => {
            let common = path.common_prefix_length(&rest);
            let mut children = Children::new();
            for (p, l) in [(path, old), (rest, leaf)] {
                let below = loaded(Body::Leaf { path: p.slice(common + 1..), leaf: l });
                children.put(p.get_unchecked(common), below);
            }
            return Ok(extended(rest.slice(..common), loaded(Body::Branch(children))));
        }
        Body::Extension { path, child } => {
            let common = path.common_prefix_length(&rest);
            if common == path.len() {
                let child = insert(child, rest.slice(common..), leaf, update)?;
                Body::Extension { path, child }
            } else {
                let mut children = Children::new();
                let below = extended(path.slice(common + 1..), child);
                children.put(path.get_unchecked(common), below);
                let new = loaded(Body::Leaf { path: rest.slice(common + 1..), leaf });
                children.put(rest.get_unchecked(common), new);
                return Ok(extended(rest.slice(..common), loaded(Body::Branch(children))));
            }
        }
        Body::Branch(mut children) => {
            let nibble = rest.get_unchecked(0);
            let rest = rest.slice(1..);
            let child = match children.take(nibble) {
                None => loaded(Body::Leaf { path: rest, leaf }),
                Some(child) => insert(child, rest, leaf, update)?,
            };
            children.put(nibble, child);
            Body::Branch(children)
        }
    }))
}

/// Removes the leaf at `rest`, which exists.
fn remove<L: Leaf>(
    link: Link<L>,
    rest: Nibbles,
    update: &mut Update<'_>,
) -> Result<Option<Link<L>>, LedgerError> {
    Ok(match update.open(link)? {
        Body::Leaf { .. } => None,
        Body::Extension { path, child } => match remove(child, rest.slice(path.len()..), update)? {
            None => None,
            Some(child) => Some(joined(path, child, update)?),
        },
        Body::Branch(mut children) => {
            let nibble = rest.get_unchecked(0);
            if let Some(child) = children.take(nibble)
                && let Some(left) = remove(child, rest.slice(1..), update)?
            {
                children.put(nibble, left);
            }
            if children.len() == 1
                && let Some((nibble, only)) = children.clone().into_only()
            {
                return Ok(Some(joined(Nibbles::from_nibbles([nibble]), only, update)?));
            }
            Some(loaded(Body::Branch(children)))
        }
    })
}

/// `link` below `path`, merged with what follows: a leaf or an extension takes the path in.
fn joined<L: Leaf>(path: Nibbles, link: Link<L>, update: &mut Update<'_>) -> Result<Link<L>, LedgerError> {
    let node = update.reader.resolve(&link)?;
    if matches!(node.body, Body::Branch(_)) {
        return Ok(extended(path, link));
    }
    drop(node);
    Ok(loaded(match update.open(link)? {
        Body::Leaf { path: below, leaf } => Body::Leaf { path: path.join(&below), leaf },
        Body::Extension { path: below, child } => Body::Extension { path: path.join(&below), child },
        Body::Branch(_) => unreachable!("looked at above"),
    }))
}
