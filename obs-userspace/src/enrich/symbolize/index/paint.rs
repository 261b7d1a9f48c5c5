//! From the ranges of inlined functions, which lie within each other, to ranges that do not overlap.

/// An inlined function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// The node into which it was inlined, plus one; 0 for the function itself.
    pub(super) parent: u32,
    /// How deep it lies: 0 directly in the function.
    pub(super) depth: u32,
    /// Offset of its name in the index; 0 if it has none.
    pub(super) name: u32,
    /// File of the call, as the unit's list of them in the index counts: 0 if unknown.
    pub(super) file: u32,
    /// Line of the call.
    pub(super) line: u32,
}

/// Addresses of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) end: u64,
    /// The node, plus one; 0 for the function itself.
    pub(super) node: u32,
}

/// The innermost node at each address of a function, as spans in ascending order; those of the function itself are left
/// out. A node counts only where all nodes around it do: otherwise there would be no true chain of calls.
pub(super) fn flatten(function: &[Span], nodes: &[Node], mut spans: Vec<Span>) -> Vec<Span> {
    let depth = |span: &Span| node(nodes, span.node).map_or(0, |node| node.depth);
    spans.retain(|span| span.start < span.end);
    spans.sort_by_key(|span| (depth(span), span.start));
    let mut below: Vec<Span> = function.to_vec();
    below.sort_unstable();
    separate(&mut below);
    // Ends: each turn takes at least one span; and each level is painted once.
    let mut rest = spans.as_mut_slice();
    while let Some(first) = rest.first() {
        let level = depth(first);
        let count = rest.iter().take_while(|span| depth(span) == level).count();
        let (now, later) = rest.split_at_mut(count);
        below = paint(&below, nodes, now);
        rest = later;
    }
    below.retain(|span| span.node != 0);
    below.dedup_by(|later, earlier| {
        let is_one = earlier.end == later.start && earlier.node == later.node;
        if is_one {
            earlier.end = later.end;
        }
        is_one
    });
    below
}

fn node(nodes: &[Node], number: u32) -> Option<&Node> {
    nodes.get((number as usize).checked_sub(1)?)
}

/// Cuts spans, which must ascend, so that they do not overlap: the earlier one stays whole.
fn separate(spans: &mut [Span]) {
    let mut end = 0;
    for span in spans {
        span.start = span.start.max(end).min(span.end.max(end));
        end = end.max(span.end);
    }
}

/// Puts one level of nodes on what lies below.
fn paint(below: &[Span], nodes: &[Node], level: &mut [Span]) -> Vec<Span> {
    separate(level);
    let mut painted = Vec::with_capacity(below.len() + 2 * level.len());
    let mut next = 0;
    for under in below {
        let mut start = under.start;
        while level.get(next).is_some_and(|span| span.end <= start) {
            next += 1;
        }
        for over in level[next..].iter().take_while(|over| over.start < under.end) {
            if over.start >= over.end || node(nodes, over.node).is_none_or(|over| over.parent != under.node) {
                continue;
            }
            if over.start > start {
                painted.push(Span { start, end: over.start, node: under.node });
                start = over.start;
            }
            let end = over.end.min(under.end);
            if end > start {
                painted.push(Span { start, end, node: over.node });
                start = end;
            }
        }
        if start < under.end {
            painted.push(Span { start, ..*under });
        }
    }
    painted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inlined(parent: u32, depth: u32) -> Node {
        Node { parent, depth, name: 0, file: 0, line: 0 }
    }

    fn span(start: u64, end: u64, node: u32) -> Span {
        Span { start, end, node }
    }

    #[test]
    fn the_innermost_counts() {
        let nodes = [inlined(0, 0), inlined(1, 1), inlined(0, 0)];
        let spans = vec![span(10, 50, 1), span(20, 30, 2), span(40, 45, 2), span(60, 70, 3), span(5, 5, 3)];
        let expected =
            [span(10, 20, 1), span(20, 30, 2), span(30, 40, 1), span(40, 45, 2), span(45, 50, 1), span(60, 70, 3)];
        assert_eq!(flatten(&[span(0, 100, 0)], &nodes, spans), expected);
    }

    #[test]
    fn what_lies_outside_its_caller_is_not_believed() {
        let nodes = [inlined(0, 0), inlined(1, 1), inlined(0, 0)];
        let spans = vec![span(10, 20, 1), span(15, 30, 2), span(30, 120, 3)];
        let expected = [span(10, 15, 1), span(15, 20, 2), span(30, 50, 3), span(90, 100, 3)];
        assert_eq!(flatten(&[span(90, 100, 0), span(0, 50, 0)], &nodes, spans), expected);
    }

    mod properties {
        use proptest::prelude::*;

        use super::*;

        proptest! {
            /// Against the definition, address by address.
            #[test]
            fn as_defined(
                parents in proptest::collection::vec(0_usize..100, 1..12),
                places in proptest::collection::vec((0_u64..64, 0_u64..24, 0_usize..100), 0..40),
            ) {
                let mut nodes: Vec<Node> = Vec::new();
                for parent in parents {
                    let parent = parent % (nodes.len() + 1);
                    let depth = if parent == 0 { 0 } else { nodes[parent - 1].depth + 1 };
                    nodes.push(inlined(u32::try_from(parent).unwrap(), depth));
                }
                // Spans of one depth must not overlap, as in true files.
                let mut spans: Vec<Span> = Vec::new();
                for (start, length, node) in places {
                    let node = u32::try_from(node % nodes.len() + 1).unwrap();
                    let depth = |node: u32| nodes[node as usize - 1].depth;
                    let overlaps = |known: &Span| {
                        depth(known.node) == depth(node) && known.start < start + length && start < known.end
                    };
                    if !spans.iter().any(overlaps) {
                        spans.push(span(start, start + length, node));
                    }
                }
                let flat = flatten(&[span(8, 80, 0)], &nodes, spans.clone());
                prop_assert!(flat.is_sorted_by(|left, right| left.end <= right.start));
                for address in 0..100 {
                    let found = flat.iter().find(|span| (span.start..span.end).contains(&address));
                    let covers = |node: u32| {
                        spans.iter().any(|span| span.node == node && (span.start..span.end).contains(&address))
                    };
                    let mut expected = 0;
                    while (8..80).contains(&address)
                        && let Some(next) = (1..=nodes.len()).map(|node| u32::try_from(node).unwrap())
                            .find(|node| nodes[*node as usize - 1].parent == expected && covers(*node))
                    {
                        expected = next;
                    }
                    prop_assert_eq!(found.map_or(0, |span| span.node), expected, "{}", address);
                }
            }
        }
    }
}
