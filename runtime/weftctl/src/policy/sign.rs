//! `weftctl policy sign` and `verify`. Secret keys stay with minisign, which reads them and asks for their passwords.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;
use weft_agent::artifact::Image;
use weft_agent::registry::{self, Looked, Source};
use weft_agent::trust::{Check, Key, Signature, Trust, recheck};
use weft_core::policy::Digest;

use super::registry::{Reach, TrustArgs};
use crate::output::Output;

#[derive(Debug, Args)]
pub(crate) struct SignArgs {
    /// The policy in its registry, with its digest, as `push` printed it. With --component, a tag is enough.
    reference: String,
    /// The component that is signed: what the registry has must be the same.
    #[arg(long, value_name = "FILE")]
    component: Option<PathBuf>,
    /// A minisign secret key (`minisign -G` makes one); minisign asks for its password.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["signature", "manifest"])]
    key: Option<PathBuf>,
    /// Upload this signature, made by minisign from the file of --manifest.
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    signature: Option<PathBuf>,
    /// Only write the manifest to this file, to sign it on another machine.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["key", "signature"])]
    manifest: Option<PathBuf>,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The policy in its registry [default: all policies of this node, again, by the trust file as it is now].
    reference: Option<String>,
    /// A public key that must have signed it, of minisign or cosign, instead of the trust file. May be repeated.
    #[arg(long, value_name = "FILE", requires = "reference")]
    key: Vec<PathBuf>,
    #[command(flatten)]
    trust: TrustArgs,
    #[command(flatten)]
    reach: Reach,
}

pub(super) fn sign(args: &SignArgs, output: Output) -> anyhow::Result<ExitCode> {
    let image = Image::parse(&args.reference)?;
    // Between a push and now, anybody with access could have moved the tag to a policy of theirs.
    if image.digest().is_none() && args.component.is_none() {
        bail!(
            "{image} has no digest, so the registry would choose what is signed: write {image}@sha256:..., as `weftctl policy push` printed it, or compare it with --component FILE"
        );
    }
    let remote = args.reach.remote(&image)?;
    let looked = registry::wait(registry::look(Source::Remote(&remote), &image))?;
    if let Some(file) = &args.component {
        compare(file, &looked)?;
    }
    let comment = comment(&looked);
    if let Some(file) = &args.manifest {
        fs::write(file, &looked.manifest).with_context(|| format!("cannot write {}", file.display()))?;
        let how = format!("minisign -S -m {} -t '{comment}'", file.display());
        let document = json!({ "reference": looked.image.to_string(), "comment": comment, "command": how });
        output.lines(&document, &[format!("sign it with: {how}")])?;
        return Ok(ExitCode::SUCCESS);
    }
    let signature = match (&args.key, &args.signature) {
        (Some(key), _) => by_minisign(key, &looked, &comment)?,
        (None, Some(file)) => fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?,
        (None, None) => bail!("use --key, --signature or --manifest"),
    };
    registry::wait(registry::attach(&remote, &looked.image, &looked.digest, &signature))?;
    let signer = Signature::Minisign { text: signature }.signer();
    let document = json!({ "reference": looked.image.to_string(), "signer": signer });
    let mut lines = vec![format!("signed {} with {signer}", looked.image)];
    if image.digest().is_none() {
        // The component was compared; the version is the registry's word.
        lines.push(format!("its version is {}", looked.version.as_deref().unwrap_or("(none)")));
    }
    output.lines(&document, &lines)?;
    Ok(ExitCode::SUCCESS)
}

/// Checks that the component in the registry is the file.
fn compare(file: &Path, looked: &Looked) -> anyhow::Result<()> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let (wanted, found) = (Digest::new(&bytes).to_string(), looked.component());
    if wanted != found {
        bail!("{} is not {}: its component is {found}, the file is {wanted}", looked.image, file.display());
    }
    Ok(())
}

/// Returns the comment of the signature, which names the repository.
fn comment(looked: &Looked) -> String {
    let version = looked.version.as_deref().map(|version| format!(" version={version}")).unwrap_or_default();
    format!("repository={}{version} digest={}", looked.image.repository(), looked.digest)
}

/// Lets minisign sign the manifest.
fn by_minisign(key: &Path, looked: &Looked, comment: &str) -> anyhow::Result<String> {
    // A directory of its own, with no files of others.
    let dir = std::env::temp_dir().join(format!("weftctl-sign-{}", std::process::id()));
    fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let signed = minisign_in(&dir, key, looked, comment);
    fs::remove_dir_all(&dir).ok();
    signed
}

fn minisign_in(dir: &Path, key: &Path, looked: &Looked, comment: &str) -> anyhow::Result<String> {
    let (manifest, signature) = (dir.join("manifest.json"), dir.join("manifest.json.minisig"));
    fs::write(&manifest, &looked.manifest).with_context(|| format!("cannot write {}", manifest.display()))?;
    let mut command = Command::new("minisign");
    command.arg("-S").arg("-s").arg(key).arg("-m").arg(&manifest).arg("-x").arg(&signature).arg("-t").arg(comment);
    // Its prompts are for the person; stdout only has one document.
    let ran = command.stdout(std::io::stderr()).status();
    let ran = ran.context("cannot run minisign (https://jedisct1.github.io/minisign, package \"minisign\"); or sign with --manifest and --signature")?;
    if !ran.success() {
        bail!("minisign did not sign with {}", key.display());
    }
    fs::read_to_string(&signature).with_context(|| format!("cannot read {}", signature.display()))
}

pub(super) fn verify(args: &VerifyArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let Some(reference) = &args.reference else { return verify_node(args, state, output) };
    let image = Image::parse(reference)?;
    let remote = args.reach.remote(&image)?;
    let looked = registry::wait(registry::look(Source::Remote(&remote), &image))?;
    let (keys, rule) = if args.key.is_empty() {
        let trust = args.trust.read(state)?;
        let trust = trust.with_context(|| {
            format!(
                "there is no trust file {}; name one with --trust, or keys with --key",
                Trust::path(state).display()
            )
        })?;
        let verdict = trust.judge(&looked.signed(), looked.version.as_deref(), &looked.signatures)?;
        if let Some(reach) = &looked.reach {
            trust.judge_imports(&looked.image, reach)?;
        }
        (verdict.keys, Some(verdict.rule))
    } else {
        (by_keys(&args.key, &looked)?, None)
    };
    let line = match (keys.is_empty(), &rule) {
        (true, Some(rule)) => format!("{} is trusted without a signature, as the rule for {rule:?} says", looked.image),
        _ => format!("{} is signed by {}", looked.image, keys.join(", ")),
    };
    output.lines(&json!({ "reference": looked.image.to_string(), "keys": keys, "rule": rule }), &[line])?;
    Ok(ExitCode::SUCCESS)
}

/// Checks that all of these keys signed a policy.
fn by_keys(files: &[PathBuf], looked: &Looked) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for file in files {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let key = if text.contains("-----BEGIN") { Key::cosign(&text) } else { Key::minisign(&text) };
        let key = key.map_err(|reason| anyhow::anyhow!("{}: {reason}", file.display()))?;
        let checks: Vec<_> = looked.signatures.iter().map(|signature| key.check(signature, &looked.signed())).collect();
        if checks.contains(&Check::Valid) {
            names.push(key.to_string());
            continue;
        }
        if let Some(reason) =
            checks.into_iter().find_map(|check| if let Check::Bad(reason) = check { Some(reason) } else { None })
        {
            bail!("{} has a signature by {key} that does not hold: {reason}", looked.image);
        }
        bail!("{} is not signed by {key}", looked.image);
    }
    Ok(names)
}

/// Verifies the policies on this node against the trust file.
fn verify_node(args: &VerifyArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let trust = args.trust.read(state)?;
    let trust = trust.with_context(|| format!("there is no trust file {}", Trust::path(state).display()))?;
    let withdrawn = recheck(state, &trust)?;
    let mut lines: Vec<_> = withdrawn
        .iter()
        .map(|policy| format!("{} is not used any more: {}", policy.reference, policy.reason))
        .collect();
    if lines.is_empty() {
        lines.push("every policy of this node that came from a registry is trusted".to_owned());
    }
    output.lines(&json!({ "withdrawn": withdrawn }), &lines)?;
    Ok(if withdrawn.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
