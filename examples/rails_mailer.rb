# config/environments/production.rb:
#   config.action_mailer.smtp_settings = { address: "127.0.0.1", port: 2525 }
class OrderMailer < ApplicationMailer
  def confirmation(order)
    headers["X-Idempotency-Key"] = "order-#{order.id}-confirmation"
    mail(from: "shop@example.com", to: order.email, subject: "Your order",
         body: "Your order is on its way.")
  end
end
