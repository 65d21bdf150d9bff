# settings.py: EMAIL_HOST = "127.0.0.1"; EMAIL_PORT = 2525
from django.core.mail import EmailMessage

EmailMessage(
    "Your order",
    "Your order is on its way.",
    "shop@example.com",
    ["customer@example.com"],
    headers={"X-Idempotency-Key": "order-1001-confirmation"},
).send()
