"""aiosmtplib: one submission through STARTTLS and AUTH. What it is told and prints: see run.sh."""

import asyncio
import os
import ssl
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.utils import formatdate, make_msgid
from pathlib import Path

import aiosmtplib

env = os.environ


class Client(aiosmtplib.SMTP):
    """Keeps the bytes that the library sent."""

    async def data(self, message, /, **options):
        Path(env["SENT"]).write_bytes(message if isinstance(message, bytes) else message.encode("ascii"))
        return await super().data(message, **options)


def build():
    mail = MIMEMultipart()
    mail["From"] = env["SENDER"]
    mail["To"] = env["RECIPIENT"]
    mail["Subject"] = "From aiosmtplib"
    mail["Date"] = formatdate()
    mail["Message-ID"] = make_msgid()
    mail["X-Idempotency-Key"] = env["KEY"]
    mail.attach(MIMEText(Path(env["TEXT"]).read_text(encoding="utf-8"), "plain", "utf-8"))
    part = MIMEApplication(Path(env["ATTACHMENT"]).read_bytes(), "pdf")
    part.add_header("Content-Disposition", "attachment", filename="invoice.pdf")
    mail.attach(part)
    return mail


async def main():
    client = Client(
        hostname=env["HOST"],
        port=int(env["PORT"]),
        start_tls=True,
        tls_context=ssl.create_default_context(cafile=env["CA"]),
        username=env["LOGIN"],
        password=env["PASSWORD"],
        timeout=30,
    )
    async with client:
        try:
            _, reply = await client.send_message(build())
            print(250, reply)
        except aiosmtplib.SMTPDataError as refusal:
            print(refusal.code, refusal.message)


asyncio.run(main())
