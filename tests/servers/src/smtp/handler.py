"""A server of SMTP that keeps what it takes, and misbehaves towards some recipients, by local part:

nobody       550 5.1.1 at RCPT               unknown      550 without an enhanced code at RCPT
gone         550 5.1.1 after the mail        full         452 4.2.2 at RCPT
later        451 after the mail              policy       550 5.7.1 at RCPT
busy         421 at RCPT, and the end        slow         takes the mail after two seconds
last         takes the mail, and ends the connection at the next MAIL
lost-answer  keeps the mail and ends the connection before it says so, the first time for each Message-ID

A mail is NUMBER.eml in the folder, its envelope NUMBER.json beside it. The port is in the file `port` once it
listens.
"""

import argparse
import asyncio
import email
import json
import os
import ssl

from aiosmtpd.smtp import SMTP, AuthResult

AT_RCPT = {
    "nobody": "550 5.1.1 No such mailbox",
    "unknown": "550 No such mailbox",
    "full": "452 4.2.2 The mailbox is full",
    "policy": "550 5.7.1 Not welcome",
    "busy": "421 4.3.2 Busy",
}
AFTER_MAIL = {
    "gone": "550 5.1.1 No such mailbox",
    "later": "451 4.3.0 Try again later",
}
SLOW_SECONDS = 2
# So much later the connection of `busy` ends: the answer is on its way.
END_SECONDS = 0.05


class Handler:
    def __init__(self, folder):
        self.folder = folder
        # Mails of a process before this one stay.
        self.kept = sum(name.endswith(".eml") for name in os.listdir(folder))
        self.lost = set()
        self.ending = []

    async def handle_MAIL(self, server, session, envelope, address, options):
        if session in self.ending:
            self.ending.remove(session)
            server.transport.abort()
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 OK"

    async def handle_RCPT(self, server, session, envelope, address, options):
        local = address.split("@")[0]
        if local == "busy":
            server.loop.call_later(END_SECONDS, server.transport.close)
        if local in AT_RCPT:
            return AT_RCPT[local]
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server, session, envelope):
        local = envelope.rcpt_tos[0].split("@")[0]
        if local in AFTER_MAIL:
            return AFTER_MAIL[local]
        if local == "last":
            self.ending.append(session)
        if local == "slow":
            await asyncio.sleep(SLOW_SECONDS)
        self.keep(server, envelope)
        message_id = email.message_from_bytes(envelope.content)["Message-ID"]
        if local == "lost-answer" and message_id not in self.lost:
            self.lost.add(message_id)
            server.transport.abort()
        return "250 2.0.0 OK"

    def keep(self, server, envelope):
        self.kept += 1
        facts = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "peer_port": server.session.peer[1],
            "tls": server.transport.get_extra_info("ssl_object") is not None,
            "authenticated": server.session.authenticated,
        }
        name = os.path.join(self.folder, f"{self.kept:06}")
        with open(name + ".json", "w") as file:
            json.dump(facts, file)
        with open(name + ".new", "wb") as file:
            file.write(envelope.content)
        # Whoever sees it sees all of it.
        os.rename(name + ".new", name + ".eml")


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--username")
    parser.add_argument("--password")
    parser.add_argument("--tls", choices=["implicit", "starttls"])
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    options = parser.parse_args()

    context = None
    if options.tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(options.certificate, options.key)

    def authenticate(server, session, envelope, mechanism, data):
        expected = (options.username.encode(), options.password.encode())
        return AuthResult(success=(data.login, data.password) == expected, handled=False)

    loop = asyncio.get_running_loop()
    handler = Handler(os.path.join(options.folder, "mails"))

    def session():
        return SMTP(
            handler,
            hostname="localhost",
            ident="stand-in",
            loop=loop,
            tls_context=context if options.tls == "starttls" else None,
            require_starttls=options.tls == "starttls",
            authenticator=authenticate if options.username else None,
            auth_required=options.username is not None,
            auth_require_tls=False,
        )

    server = await loop.create_server(
        session,
        "127.0.0.1",
        options.port,
        ssl=context if options.tls == "implicit" else None,
    )
    name = os.path.join(options.folder, "port")
    with open(name + ".new", "w") as file:
        file.write(str(server.sockets[0].getsockname()[1]))
    os.rename(name + ".new", name)
    await server.serve_forever()


asyncio.run(main())
