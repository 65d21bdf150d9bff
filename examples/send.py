"""Sends one mail to a relay on this machine and prints its reply: send.py KEY TEXT [RECIPIENT].

Only the standard library. Each run builds a new message (new Message-ID, Date and MIME boundary), as a retry does. The
recipient is the envelope's; the message itself says the same To, whoever gets it.
"""

import smtplib
import sys
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid

key, text, recipient = (*sys.argv[1:3], *(sys.argv[3:] or ["customer@example.com"]))

mail = EmailMessage()
mail["From"] = "shop@example.com"
mail["To"] = "customer@example.com"
mail["Subject"] = "Your order"
mail["Date"] = formatdate()
mail["Message-ID"] = make_msgid()
mail["X-Idempotency-Key"] = key
mail.set_content(text)
mail.add_alternative(f"<p>{text}</p>", subtype="html")

with smtplib.SMTP("127.0.0.1", 2525) as relay:
    relay.ehlo()
    relay.mail(mail["From"])
    relay.rcpt(recipient)
    code, reply = relay.data(mail.as_bytes(policy=SMTP))
    print(code, reply.decode())
