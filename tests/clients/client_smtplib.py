"""Python's smtplib: one submission through STARTTLS and AUTH. What it is told and prints: see run.sh."""

import os
import smtplib
import ssl
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from pathlib import Path

env = os.environ


class Client(smtplib.SMTP):
    """Keeps what the library itself hides: the bytes that it sent and the reply to the final dot."""

    def data(self, msg):
        Path(env["SENT"]).write_bytes(msg)
        self.last_reply = super().data(msg)
        return self.last_reply


mail = EmailMessage()
mail["From"] = env["SENDER"]
mail["To"] = env["RECIPIENT"]
mail["Subject"] = "Grüße from smtplib"
mail["Date"] = formatdate()
mail["Message-ID"] = make_msgid()
mail["X-Idempotency-Key"] = env["KEY"]
mail.set_content(Path(env["TEXT"]).read_text(encoding="utf-8"))
mail.add_attachment(
    Path(env["ATTACHMENT"]).read_bytes(), maintype="application", subtype="pdf", filename="invoice.pdf"
)

with Client(env["HOST"], int(env["PORT"]), timeout=30) as client:
    client.starttls(context=ssl.create_default_context(cafile=env["CA"]))
    client.login(env["LOGIN"], env["PASSWORD"])
    try:
        client.send_message(mail)
    except smtplib.SMTPDataError:
        pass  # a refusal is an answer, too
    code, reply = client.last_reply
    print(code, reply.decode())
