"""A mail server for tests: keeps what it takes as files, and misbehaves by the local part of the recipient.

Called with the folder for mails and, optionally, a user and a password that it insists on; listens on the port PORT,
by TLS (`implicit`, `starttls`) if TLS says so.
"""

import asyncio
import json
import os
import ssl
import sys

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult

MAILS, *CREDENTIALS = sys.argv[1:]
TLS = os.environ.get("TLS", "")
CONTEXT = None
if TLS:
    CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CONTEXT.load_cert_chain("certificate.pem", "key.pem")

# Before the mail: what RCPT is answered.
AT_RCPT = {
    "nobody": "550 5.1.1 no such mailbox",
    "full": "452 4.2.2 the mailbox is full",
    "policy": "550 5.7.1 we do not want it",
    "plain": "550 no",
    "away": "421 4.3.2 closing",
}
# After it.
AT_DATA = {
    "later": "451 4.7.1 come back later",
    "unwanted": "554 5.7.1 it is spam",
}


class Handler:
    def __init__(self):
        # Those that it took before it was started again stay.
        self.number = int(os.environ.get("FIRST", "0"))
        self.lost = set()

    async def handle_RCPT(self, server, session, envelope, address, options):
        answer = AT_RCPT.get(address.split("@")[0])
        if answer:
            return answer
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server, session, envelope):
        local = envelope.rcpt_tos[0].split("@")[0]
        if local in AT_DATA:
            return AT_DATA[local]
        if local == "slow":
            await asyncio.sleep(2)
        self.number += 1
        kept = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos[0],
            "data": envelope.original_content.decode("utf-8", "replace"),
        }
        name = os.path.join(MAILS, f"{self.number:06}.json")
        with open(name + ".part", "w") as file:
            json.dump(kept, file)
        os.rename(name + ".part", name)
        # Kept, and whoever sent it does not hear of it: once for each recipient.
        if local == "lost-answer" and envelope.rcpt_tos[0] not in self.lost:
            self.lost.add(envelope.rcpt_tos[0])
            server.transport.abort()
        return "250 2.0.0 kept"


def authenticator(server, session, envelope, mechanism, data):
    said = [data.login.decode(), data.password.decode()]
    return AuthResult(success=said == CREDENTIALS, handled=False)


class Server(Controller):
    def factory(self):
        options = {}
        if TLS == "starttls":
            options.update(tls_context=CONTEXT, require_starttls=True)
        if CREDENTIALS:
            options.update(
                authenticator=authenticator,
                auth_required=True,
                auth_require_tls=TLS == "starttls",
            )
        return SMTP(self.handler, hostname="mail.test", **options)


async def main():
    handler = Handler()
    server = Server(handler)
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(
        server.factory,
        "127.0.0.1",
        int(os.environ["PORT"]),
        ssl=CONTEXT if TLS == "implicit" else None,
    )
    await listening.serve_forever()


asyncio.run(main())
