//! Devices, and the gateway between them and the router, in small.

use super::*;

impl World {
    /// What the router sent to the gateway goes to the devices.
    pub(super) fn deliver(&mut self) -> bool {
        let context = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(bytes)) = self.out.poll_take(&context) {
            self.reader.push(&bytes);
        }
        let mut any = false;
        while let Some(frame) = self.reader.try_next().unwrap() {
            any = true;
            if frame.header.kind == Verb::SendResult.byte() {
                self.results.push(SendResult::decode(frame.body.clone()).unwrap());
            }
            match Verb::from_byte(frame.header.kind) {
                Some(Verb::Push) => self.carry(&Push::parse(&frame.body).unwrap()),
                Some(Verb::PushMany) => {
                    for push in PushMany::parse(&frame.body).unwrap().pushes() {
                        self.carry(&push);
                    }
                }
                _ => {}
            }
        }
        any
    }

    /// What the gateway does with a push.
    fn carry(&mut self, push: &Push<'_>) {
        if push.kind == Kind::GroupHeads.byte() {
            self.heads.extend(GroupHeads::decode(push.body).unwrap().heads);
        }
        let device = self.devices.iter_mut().find(|device| device.handle == Some(push.session.0));
        let Some(device) = device else {
            let entries = vec![NotHere { cookie: push.cookie, session: push.session }];
            self.mail(push.cookie, Work::NotHere { link: self.link.clone(), entries });
            return;
        };
        let mut bytes = Vec::new();
        put_frame(&mut bytes, push.kind, push.flags, 1, push.body);
        device.session.handle_bytes(&bytes, self.now_ms);
    }

    /// One device's connection: dials, speaks, takes its events.
    pub(super) fn speak(&mut self, number: usize) -> bool {
        let now = self.now_ms;
        let device = &mut self.devices[number];
        device.session.handle_timeout(now);
        if device.session.wants_hang_up() {
            self.hang_up(number);
            return true;
        }
        let device = &mut self.devices[number];
        if !device.is_connected && device.session.wants_connection(now) {
            device.session.handle_dialling();
            device.session.handle_connected(now);
            device.is_connected = true;
        }
        let out = device.session.poll_transmit(now);
        let any = out.is_some();
        device.reader.push(&out.unwrap_or_default());
        while let Some(frame) = self.devices[number].reader.try_next().unwrap() {
            self.handle_client_frame(number, frame.header.kind, frame.body);
        }
        self.take_app_events(number);
        any
    }

    pub(super) fn take_app_events(&mut self, number: usize) {
        let now = self.now_ms;
        let device = &mut self.devices[number];
        while let Some(event) = device.session.poll_event(now) {
            match event {
                Event::GroupMessage { sync_id, payload, .. } => device.got.push((sync_id, payload)),
                Event::GroupAnswer { answer, .. } => {
                    device.answers.insert(answer.id, answer.code());
                }
                Event::Accepted { client_id, sync_id, .. } => {
                    let place = self.accepted.insert(sync_id, client_id.clone());
                    assert!(place.is_none_or(|known| known == client_id), "two messages in one place");
                }
                Event::Refused { code, .. } => assert_eq!(code, Code::NotFound, "only strangers are refused"),
                _ => {}
            }
        }
    }

    /// The gateway, in small.
    fn handle_client_frame(&mut self, number: usize, kind: u8, body: Bytes) {
        let link = self.link.clone();
        let device = &mut self.devices[number];
        let key = AccountKey::new("shop", device.account);
        let mut answer = Vec::new();
        match Kind::from_byte(kind).unwrap() {
            Kind::Connect => {
                let connected = Connected { version: 1, heartbeat_ms: 270_000, ..Connected::default() };
                put_control(&mut answer, Kind::Connected, 0, &connected);
                device.session.handle_bytes(&answer, self.now_ms);
            }
            Kind::Open => {
                let open = Open::decode(body).unwrap();
                device.handle = Some(self.next_handle);
                put_control(&mut answer, Kind::Opened, 1, &Opened { session: self.next_handle });
                self.next_handle += 1;
                device.session.handle_bytes(&answer, self.now_ms);
                self.register(number, open.last_sync_id);
            }
            Kind::Ping => {
                put_frame(&mut answer, Kind::Pong.byte(), Class::Command.flags(), 0, &body);
                device.session.handle_bytes(&answer, self.now_ms);
            }
            kind => {
                let Some(session) = device.handle.map(SessionHandle) else { return };
                let (account, name) = (device.account, device.name.clone());
                let origin = Origin::Session { link: link.clone(), session, hash: key.hash };
                let up = {
                    let mut frame = Vec::new();
                    let (app, device) = ("shop", name.as_str());
                    Up { session, kind: kind.byte(), flags: 0, app, account, device, body: &body }
                        .put(&mut frame);
                    Bytes::copy_from_slice(&frame[moor_wire::frame::HEADER_BYTES..])
                };
                match kind {
                    Kind::Data => {
                        let submit = SubmitBody::decode(body).unwrap();
                        let to = AccountKey::of_group("shop", &submit.group);
                        let submit = Submit {
                            to: to.clone(),
                            from: account.into(),
                            client_id: submit.client_id,
                            payload: submit.payload,
                            sent_at_ms: self.now_ms,
                            origin,
                            entry: Entry::Personal,
                            marks: None,
                            copies_bytes: 0,
                        };
                        self.mail(to.hash, Work::Submit(Box::new(submit)));
                    }
                    Kind::Ack | Kind::Sync => self.mail(key.hash, Work::Cursor { link, hash: key.hash, up }),
                    Kind::GroupAck => self.mail(key.hash, Work::GroupAck { link, hash: key.hash, up }),
                    Kind::Group => {
                        let request = GroupRequest::decode(body).unwrap();
                        let group = match request.act {
                            Some(Act::Prefer(_)) => key,
                            _ => AccountKey::of_group("shop", &request.group),
                        };
                        let ask =
                            GroupAsk { origin, actor: Some(account.into()), request, at_ms: self.now_ms };
                        self.mail(group.hash, Work::Group { key: group, ask: Box::new(ask) });
                    }
                    Kind::Pull => {
                        let pull = Pull::decode(body).unwrap();
                        let group = AccountKey::of_group("shop", &pull.group);
                        let (actor, device) = (Some(account.into()), name.into());
                        let ask = Box::new(PullAsk { origin, actor, device, pull });
                        self.mail(group.hash, Work::Pull { key: group, ask });
                    }
                    other => panic!("{other:?} from a client"),
                }
            }
        }
    }

    pub(super) fn hang_up(&mut self, number: usize) {
        let device = &mut self.devices[number];
        if !device.is_connected {
            return;
        }
        (device.is_connected, device.handle) = (false, None);
        device.reader = FrameReader::new(1 << 20);
        device.session.handle_disconnected(self.now_ms);
    }
}
