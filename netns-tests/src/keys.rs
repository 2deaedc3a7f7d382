//! The lab's throw-away secrets: nkeys of people, nodes and leafnode connections, and a small
//! certificate authority for the nats-servers and their clients.
//!
//! Everything is made when the lab is made and lies in its directory, readable by its owner only.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nkeys::KeyPair as NKey;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// The nkeys of a lab, by name: operators, nodes, `admin`, `system`, `leaf-SITE`.
#[derive(Debug)]
pub struct Keys {
    dir: PathBuf,
    public: BTreeMap<String, String>,
}

/// The certificate authority of a lab.
pub struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

// === impl Keys ===

impl Keys {
    /// Makes one user nkey per name; seeds go to `DIR/NAME.nk`.
    pub fn generate(dir: &Path, names: impl IntoIterator<Item = String>) -> Result<Self> {
        private_dir(dir)?;
        let mut public = BTreeMap::new();
        for name in names {
            let pair = NKey::new_user();
            let seed = pair.seed().context("a new key has a seed")?;
            write_private(&seed_file(dir, &name), &seed)?;
            public.insert(name, pair.public_key());
        }
        Ok(Self { dir: dir.to_owned(), public })
    }

    /// The public key (`U...`) of a name given to [`Keys::generate`].
    pub fn public(&self, name: &str) -> Result<&str> {
        let key = self.public.get(name).map(String::as_str);
        key.with_context(|| format!("the lab has no key named {name}"))
    }

    /// Where the seed of a name lies.
    pub fn seed(&self, name: &str) -> PathBuf {
        seed_file(&self.dir, name)
    }
}

fn seed_file(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.nk"))
}

// === impl Authority ===

impl Authority {
    /// Makes a new authority; its certificate is `DIR/ca.crt`. Its key is never written.
    pub fn generate(dir: &Path) -> Result<Self> {
        private_dir(dir)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "Nett lab");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        fs::write(dir.join("ca.crt"), certificate.pem()).context("cannot write ca.crt")?;
        Ok(Self { dir: dir.to_owned(), issuer: Issuer::new(params, key) })
    }

    /// Issues `DIR/NAME.crt` and `DIR/NAME.key`, good for server and client use, with the
    /// addresses as subject alternative names.
    pub fn issue(&self, name: &str, addresses: &[IpAddr]) -> Result<()> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        let ips = addresses.iter().map(|a| SanType::IpAddress(*a));
        params.subject_alt_names.extend(ips);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        let file = |end: &str| self.dir.join(format!("{name}.{end}"));
        fs::write(file("crt"), certificate.pem())
            .with_context(|| format!("cannot write {}", file("crt").display()))?;
        write_private(&file("key"), &key.serialize_pem())
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// Creates a directory only its owner can enter.
pub(crate) fn private_dir(dir: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot create {}", dir.display()))
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    let mut file = fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    file.write_all(text.as_bytes())?;
    Ok(())
}
