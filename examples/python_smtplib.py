import smtplib
from email.message import EmailMessage

mail = EmailMessage()
mail["From"], mail["To"], mail["Subject"] = "shop@example.com", "customer@example.com", "Your order"
mail["X-Idempotency-Key"] = "order-1001-confirmation"
mail.set_content("Your order is on its way.")

with smtplib.SMTP("127.0.0.1", 2525) as relay:
    relay.send_message(mail)
