//! What a connection can be asked, written once for every face: `methods!([], [])` for the blocking one,
//! `methods!([async], [.await])` for the others.

macro_rules! methods {
    ([$($async:tt)*], [$($await:tt)*]) => {
        impl Router {
            /// Connects and says HELLO.
            ///
            /// # Errors
            /// When nothing listens there, or whoever does refuses. Only this first attempt is not repeated:
            /// a connection that breaks later comes back by itself.
            pub $($async)* fn connect(address: &str, token: Option<&[u8]>) -> Result<Self, Error> {
                Self::connect_with(address, Config::new(token)) $($await)*
            }

            /// Connects to one worker of a gateway, by the gateway's internal port.
            ///
            /// # Errors
            /// As [`Self::connect`].
            pub $($async)* fn connect_worker(
                address: &str,
                worker: u32,
                token: Option<&[u8]>,
            ) -> Result<Self, Error> {
                let config = Config { worker: Some(worker), ..Config::new(token) };
                Self::connect_with(address, config) $($await)*
            }

            /// Connects with other settings than usual.
            ///
            /// # Errors
            /// As [`Self::connect`].
            pub $($async)* fn connect_with(address: &str, config: Config) -> Result<Self, Error> {
                let mut router = Self::new(address, config);
                while !router.desk.opened()? {
                    router.step(None) $($await)*;
                }
                Ok(router)
            }

            /// What the other side last said of itself.
            #[must_use]
            pub fn welcome(&self) -> &Welcome {
                self.desk.welcome()
            }

            /// Where the sessions of an account are, and which of its messages are stored. Of more than 1,024 sessions
            /// 1,024 are named, which ones is left open, and `code` is `LIMIT`.
            ///
            /// # Errors
            /// When there is no answer in time, or a refusal.
            pub $($async)* fn lookup(&mut self, app: &str, account: &str) -> Result<LookupResult, Error> {
                self.call(Request::lookup(app, account)?) $($await)*?.into_lookup()
            }

            /// Stores a reliable message for an account and has it delivered.
            ///
            /// Repeated with the same client id, across broken connections too, until there is a final answer
            /// or the deadline has passed. Without a client id one is made up; give your own to make the call
            /// itself repeatable.
            ///
            /// # Errors
            /// When there is no answer in time (the message may be stored: repeat with the same client id),
            /// or a refusal.
            pub $($async)* fn send(
                &mut self,
                app: &str,
                from: &str,
                to: &str,
                client_id: Option<&[u8]>,
                payload: &[u8],
            ) -> Result<Sent, Error> {
                self.call(Request::send(app, from, to, client_id, payload)?) $($await)*?.into_sent()
            }

            /// Says something to everybody in a room, as a message of type `number`: the router's settings say what
            /// that is worth. A reliable one is stored, under the id that is answered; the others have none, and may
            /// be said twice when an answer is lost.
            ///
            /// # Errors
            /// When there is no answer in time, or a refusal.
            pub $($async)* fn publish(
                &mut self,
                app: &str,
                from: &str,
                (room, number): (&str, u32),
                payload: &[u8],
            ) -> Result<Sent, Error> {
                let publish = Request::room_publish(app, from, (room, number), None, payload)?;
                self.call(publish) $($await)*?.into_sent()
            }

            /// How many sessions are in a room, and what else is known of it.
            ///
            /// # Errors
            /// When there is no answer in time, or a refusal.
            pub $($async)* fn room_stats(&mut self, app: &str, room: &str) -> Result<RoomStatsResult, Error> {
                self.call(Request::room_stats(app, room)?) $($await)*?.into_room_stats()
            }

            /// Sends a transient message to every session of an account; returns how many it reached, 0 when
            /// nobody is logged in.
            ///
            /// # Errors
            /// When there is no answer in time, or a refusal.
            pub $($async)* fn push_account(
                &mut self,
                app: &str,
                account: &str,
                from: &str,
                payload: &[u8],
            ) -> Result<u32, Error> {
                self.call(Request::push_account(app, account, from, payload)?) $($await)*?.into_reached()
            }

            /// Sends a transient message to every session of an app on the gateway this is connected to; returns
            /// how many there are. To reach everybody, ask every gateway.
            ///
            /// # Errors
            /// When there is no answer in time, or a refusal: a router does not take it.
            pub $($async)* fn broadcast(
                &mut self,
                app: &str,
                from: &str,
                payload: &[u8],
            ) -> Result<u32, Error> {
                self.call(Request::broadcast(app, from, payload)?) $($await)*?.into_reached()
            }

            /// Sends a transient message to one session of the gateway this is connected to.
            ///
            /// # Errors
            /// [`Error::NotHere`] when that session is gone; or no answer in time.
            pub $($async)* fn push(
                &mut self,
                session: u64,
                from: &str,
                payload: &[u8],
            ) -> Result<u32, Error> {
                self.call(Request::push(session, None, from, payload)?) $($await)*?.into_reached()
            }

            /// Sends a transient message to a session [`Self::lookup`] found, straight to its gateway worker,
            /// over a connection that is kept for the next time.
            ///
            /// # Errors
            /// [`Error::NotHere`] when the session is gone or its gateway has restarted since: look it up
            /// again. Otherwise as [`Self::connect`] and [`Self::push`].
            pub $($async)* fn push_to(
                &mut self,
                location: &Location,
                from: &str,
                payload: &[u8],
            ) -> Result<u32, Error> {
                let push = Request::push(location.session, Some(location.epoch), from, payload)?;
                let key = (location.internal_address.clone(), location.worker);
                if let Some(gateway) = self.gateways.get_mut(&key) {
                    gateway.catch_up() $($await)*;
                    if gateway.stream.is_none() {
                        // Connecting anew tells at once when nobody listens there any more; the kept
                        // connection would go on trying until the deadline.
                        self.gateways.remove(&key);
                    }
                }
                if let Some(gateway) = self.gateways.get_mut(&key) {
                    let pushed = gateway.call(push.clone()) $($await)*;
                    match pushed {
                        Ok(answer) => return answer.into_reached(),
                        // The session is gone and the gateway is the one meant.
                        Err(Error::NotHere) if gateway.welcome().epoch == location.epoch => {
                            return Err(Error::NotHere);
                        }
                        // Another process of that gateway may listen by now: ask it once.
                        Err(Error::NotHere) => self.gateways.remove(&key),
                        Err(error) => {
                            self.gateways.remove(&key);
                            return Err(error);
                        }
                    };
                }
                let config = Config { worker: Some(location.worker), ..self.desk.config().clone() };
                let mut gateway = Self::connect_with(&location.internal_address, config) $($await)*?;
                let pushed = gateway.call(push) $($await)*;
                if self.gateways.len() >= crate::limits::GATEWAYS_MAX
                    && let Some(some) = self.gateways.keys().next().cloned()
                {
                    self.gateways.remove(&some);
                }
                self.gateways.insert(key, gateway);
                pushed?.into_reached()
            }

            /// Closes the sessions of an account, or only those of one device; returns how many there were.
            ///
            /// # Errors
            /// When there is no answer in time, or a refusal.
            pub $($async)* fn kick(
                &mut self,
                app: &str,
                account: &str,
                device: Option<&str>,
                reason: &str,
            ) -> Result<u32, Error> {
                self.call(Request::kick(app, account, device, reason)?) $($await)*?.into_reached()
            }

            /// Sends a reliable message to a group, as [`Self::send`] does to an account.
            ///
            /// # Errors
            /// As [`Self::send`].
            pub $($async)* fn send_group(
                &mut self,
                app: &str,
                from: &str,
                group: &str,
                client_id: Option<&[u8]>,
                payload: &[u8],
            ) -> Result<Sent, Error> {
                self.call(Request::send_group(app, from, group, client_id, payload)?) $($await)*?.into_sent()
            }

            /// Makes, changes or looks at a group: on behalf of an account, or as the operator, whom everything
            /// is allowed. Asked twice, the second time changes nothing.
            ///
            /// # Errors
            /// When there is no answer in time, or a refusal.
            pub $($async)* fn group(
                &mut self,
                app: &str,
                account: Option<&str>,
                group: &str,
                act: Act,
            ) -> Result<GroupAnswer, Error> {
                self.call(Request::group(app, account, group, act)?) $($await)*?.into_group()
            }

            /// A page of an account's timeline: messages behind `after`, `limit` at most (0: what fits).
            ///
            /// # Errors
            /// When there is no answer in time, or a refusal.
            pub $($async)* fn history(
                &mut self,
                app: &str,
                account: &str,
                after: u64,
                limit: u32,
            ) -> Result<Pulled, Error> {
                self.call(Request::history(app, account, after, limit)?) $($await)*?.into_history()
            }

            /// A page of a group's timeline.
            ///
            /// # Errors
            /// When there is no answer in time, or a refusal.
            pub $($async)* fn group_history(
                &mut self,
                app: &str,
                group: &str,
                after: u64,
                limit: u32,
            ) -> Result<Pulled, Error> {
                self.call(Request::group_history(app, group, after, limit)?) $($await)*?.into_history()
            }

            /// The counters of the process this is connected to.
            ///
            /// # Errors
            /// When there is no answer in time.
            pub $($async)* fn stats(&mut self) -> Result<Vec<(String, u64)>, Error> {
                self.call(Request::Stats) $($await)*?.into_stats()
            }

            /// Switches business levels off at the router: messages of `from_level` (1 or 2) and above are refused
            /// from now on, until it is said again, over restarts of the router. `None`: all are taken.
            ///
            /// # Errors
            /// When there is no answer in time, or a refusal. `STORAGE`: it holds, but could not be written, and a
            /// restart of the router forgets it.
            pub $($async)* fn degrade(&mut self, from_level: Option<u32>) -> Result<(), Error> {
                self.call(Request::degrade(from_level)) $($await)*?.into_reached().map(drop)
            }

            /// Asks for a receipt whenever a device of this app acknowledges something. Asked again after
            /// every reconnect; what was acknowledged in between is not told.
            ///
            /// # Errors
            /// When there is no answer in time, or a refusal.
            pub $($async)* fn subscribe(&mut self, app: &str) -> Result<(), Error> {
                self.call(Request::subscribe(app)?) $($await)*?.into_reached().map(drop)
            }

            /// As [`Self::subscribe`], only where a message with these marks is among what was acknowledged: each that
            /// is not empty must be its. Of an app the last subscription holds.
            ///
            /// # Errors
            /// As [`Self::subscribe`], or when a mark is too long.
            pub $($async)* fn subscribe_marked(
                &mut self,
                app: &str,
                marks: TrafficMarks,
            ) -> Result<(), Error> {
                self.call(Request::subscribe(app)?.marked(marks)?) $($await)*?.into_reached().map(drop)
            }

            /// The next receipt, or `None` when none came within `timeout`. A connection that is being made is waited
            /// for all the same.
            ///
            /// # Errors
            /// When the other side has sent this service away for good. [`Error::Unsubscribed`], once, when it has
            /// refused after a reconnect what it had granted to [`Self::subscribe`]; [`Error::ReceiptsDropped`], with their
            /// number, when so many waited to be taken that the oldest were dropped. Behind these two others may follow.
            pub $($async)* fn next_receipt(
                &mut self,
                timeout: std::time::Duration,
            ) -> Result<Option<Receipt>, Error> {
                let timeout = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
                let until = self.now().saturating_add(timeout);
                self.catch_up() $($await)*;
                loop {
                    if let Some(receipt) = self.desk.take_receipt() {
                        return receipt.map(Some);
                    }
                    self.desk.check()?;
                    if self.now() >= until {
                        return Ok(None);
                    }
                    self.step(Some(until)) $($await)*;
                }
            }

            /// Begins a request without waiting for its answer, so that several can be under way. It goes out
            /// with the next method that waits. The ticket is held until the answer is taken: dropped, it gives it up.
            ///
            /// # Errors
            /// [`Error::TooManyInFlight`] when as many as allowed are under way.
            pub $($async)* fn start(&mut self, request: Request) -> Result<Ticket, Error> {
                self.catch_up() $($await)*;
                let now = self.now();
                self.desk.start(now, request)
            }

            /// Waits for the answer of a request begun with [`Self::start`].
            ///
            /// # Errors
            /// What became of that request; [`Error::UnknownTicket`] when its answer was already taken.
            pub $($async)* fn finish(&mut self, ticket: &Ticket) -> Result<crate::Answer, Error> {
                loop {
                    if let Some(answer) = self.desk.take(ticket) {
                        return answer;
                    }
                    self.step(None) $($await)*;
                }
            }

            /// Makes a request and waits for its answer: [`Self::start`] and [`Self::finish`]. For what has no method of
            /// its own, such as a message with a [business level](Request::at_level) or [marks](Request::marked).
            ///
            /// # Errors
            /// As those.
            pub $($async)* fn call(&mut self, request: Request) -> Result<crate::Answer, Error> {
                let ticket = self.start(request) $($await)*?;
                self.finish(&ticket) $($await)*
            }
        }
    };
}
pub(crate) use methods;
