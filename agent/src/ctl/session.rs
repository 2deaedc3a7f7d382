//! One run of `nettctl`: how to reach an agent, and the connection once there is one.

use std::time::Duration;

use super::args::Global;
use super::exit::CtlError;
use super::key;
use super::render::{self, Out};
use crate::api::client::{Client, ClientError, NatsTarget, TlsFiles, Transport};
use crate::api::types::{ApiRequest, ApiResponse, CommandReply, IdentityDoc, Outcome, Payload};

/// Longest wait for one answer, when `--timeout` does not say.
const ANSWER: Duration = Duration::from_secs(10);
/// Longest wait for a plan: with very many services an agent works on it for seconds.
const PLAN: Duration = Duration::from_secs(60);
/// Longest wait for a task's end.
const TASK: Duration = Duration::from_secs(30 * 60);

pub(super) struct Session {
    pub(super) global: Global,
    pub(super) out: Out,
    /// True once a task is followed: `--timeout` is then for the task, not for one answer.
    pub(super) following: bool,
    client: Option<Client>,
}

impl Session {
    pub(super) fn new(global: Global, out: Out) -> Self {
        Self { global, out, following: false, client: None }
    }

    /// Asks; the answer has no control characters when a person is to read it.
    pub(super) async fn ask(&mut self, request: &ApiRequest) -> Result<ApiResponse, CtlError> {
        let answer = self.ask_plainly(request).await?;
        if self.out.is_for_people() {
            return Ok(render::clean(answer));
        }
        Ok(answer)
    }

    /// Asks for what goes into a file: the answer as it came.
    pub(super) async fn ask_plainly(
        &mut self,
        request: &ApiRequest,
    ) -> Result<ApiResponse, CtlError> {
        let client = self.client().await?;
        let asked = client.call(request).await;
        self.keep_unless_broken(asked)
    }

    /// Asks for what only comes as a payload.
    pub(super) async fn payload(&mut self, request: &ApiRequest) -> Result<Payload, CtlError> {
        match self.ask(request).await?.outcome {
            Outcome::Ok(payload) => Ok(*payload),
            Outcome::Error(error) => Err(ClientError::Agent(error).into()),
        }
    }

    /// Asks for what is answered as a command is.
    pub(super) async fn reply(&mut self, request: &ApiRequest) -> Result<CommandReply, CtlError> {
        match self.payload(request).await? {
            Payload::Command(reply) => Ok(reply),
            _ => Err(ClientError::WrongAnswer.into()),
        }
    }

    /// Asks and shows; gives the answer for those who end otherwise because of it.
    pub(super) async fn show(&mut self, request: &ApiRequest) -> Result<ApiResponse, CtlError> {
        let answer = self.ask(request).await?;
        self.out.answer(&answer)?;
        Ok(answer)
    }

    pub(super) async fn command(
        &mut self,
        subject: &str,
        envelope: Vec<u8>,
    ) -> Result<CommandReply, CtlError> {
        let client = self.client().await?;
        let asked = client.command(subject, envelope).await;
        let reply = self.keep_unless_broken(asked)?;
        if self.out.is_for_people() {
            return Ok(render::clean(reply));
        }
        Ok(reply)
    }

    /// Who answers, and who this key belongs to.
    pub(super) async fn identify(&mut self, key: String) -> Result<IdentityDoc, CtlError> {
        let request = ApiRequest::Identify { key: Some(key) };
        match self.payload(&request).await? {
            Payload::Identity(identity) => Ok(identity),
            _ => Err(ClientError::WrongAnswer.into()),
        }
    }

    /// The deadline of following a task.
    pub(super) fn task_deadline(&self) -> Duration {
        self.global.timeout.unwrap_or(TASK)
    }

    /// Gets a connection now, so that a later failure is known to be one of the exchange.
    pub(super) async fn client(&mut self) -> Result<&mut Client, CtlError> {
        if self.client.is_none() {
            let transport = self.transport()?;
            let deadline = match self.global.timeout {
                Some(task) if self.following => task.min(ANSWER),
                Some(answer) => answer,
                None => ANSWER,
            };
            let client = Client::connect(&transport, deadline).await?;
            let planning = self.global.timeout.filter(|_| !self.following).unwrap_or(PLAN);
            self.client = Some(client.with_planning(planning));
        }
        Ok(self.client.as_mut().expect("connected above"))
    }

    /// After a broken exchange the connection has no known position: the next ask opens another.
    fn keep_unless_broken<T>(&mut self, result: Result<T, ClientError>) -> Result<T, CtlError> {
        if result.is_err() {
            self.client = None;
        }
        Ok(result?)
    }

    fn transport(&self) -> Result<Transport, CtlError> {
        let Global { socket, nats, site, tls_ca, tls_cert, tls_key, key, .. } = &self.global;
        let Some(url) = nats else {
            return Ok(Transport::Socket(socket.clone()));
        };
        let site = site.clone().unwrap_or_default();
        if !site.is_empty() {
            site.parse::<nett_policy::id::SiteId>().map_err(|e| {
                CtlError::usage(format!("--site: {e}"), "name a site of the fabric")
            })?;
        }
        let seed = key.as_deref().map(key::read_seed).transpose()?;
        Ok(Transport::Nats(NatsTarget {
            url: url.clone(),
            site,
            tls: TlsFiles { ca: tls_ca.clone(), cert: tls_cert.clone(), key: tls_key.clone() },
            seed,
        }))
    }
}
