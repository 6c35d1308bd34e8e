//! Tags: they name the owner of a rule in the node's packet filter. The beginning is unique to attachment and purpose,
//! the rest is for people.

use sha2::{Digest, Sha256};
use weft_host_abi::types::Attachment;

/// Maximum length of a comment that `nft` shows.
const LONGEST: usize = 110;

/// How many bytes of the hash are written.
const HASH: usize = 8;

/// Returns the tag of an attachment's rule for a purpose.
pub(super) fn tag(attachment: &Attachment, purpose: &str) -> String {
    let Attachment { network, container_id, ifname } = attachment;
    let mut hasher = Sha256::new();
    for part in [network, ifname, container_id] {
        hasher.update(part.as_bytes());
        hasher.update([0]);
    }
    hasher.update(purpose.as_bytes());
    let hash: String = hasher.finalize().iter().take(HASH).map(|byte| format!("{byte:02x}")).collect();
    // Quotes and non-ASCII characters would have to be escaped wherever the comment is shown.
    let plain = |c: char| if c.is_ascii_graphic() && c != '"' { c } else { '_' };
    let people = format!("{ifname} of {container_id} on {network}").replace(' ', "\u{1}");
    let people: String = people.chars().map(|c| if c == '\u{1}' { ' ' } else { plain(c) }).collect();
    let mut tag = format!("weft {hash} {people}");
    tag.truncate(LONGEST);
    tag
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(network: &str, container_id: &str) -> Attachment {
        Attachment { network: network.to_owned(), container_id: container_id.to_owned(), ifname: "eth0".to_owned() }
    }

    #[test]
    fn tags_are_unique_and_short() {
        let one = tag(&attachment("net", "cid-a"), "");
        assert_eq!(one.split_at(21), ("weft ebf7cabb31e26ca8", " eth0 of cid-a on net"));
        assert_ne!(one, tag(&attachment("net", "cid-a"), "port 80"));
        assert_ne!(one.get(..21), tag(&attachment("net", "cid-b"), "").get(..21));
        let long = tag(&attachment(&"n".repeat(300), &"c\"é".repeat(64)), "");
        assert_eq!(long.len(), LONGEST);
        assert!(long.chars().all(|c| c == ' ' || (c.is_ascii_graphic() && c != '"')), "{long}");
    }
}
