<?php
// .env: MAIL_MAILER=smtp, MAIL_HOST=127.0.0.1, MAIL_PORT=2525
use Illuminate\Support\Facades\Mail;

Mail::raw('Your order is on its way.', function ($message) {
    $message->from('shop@example.com')->to('customer@example.com')->subject('Your order');
    $message->getHeaders()->addTextHeader('X-Idempotency-Key', 'order-1001-confirmation');
});
