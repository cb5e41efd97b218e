"""Texts to compare a compiled model with its original on, where a recipe has none.

Of many lengths, so that a batch of them is padded; in several scripts, so that a tokenizer's rarer
paths are walked.
"""

SENTENCES = (
    "Hello.",
    "Where is my order?",
    "The delivery arrived two days late and the box was open.",
    "I would like to change the address on my account before the next invoice is sent.",
    "Temperature in the cold store rose to 9 °C at 03:40 and fell back within twenty minutes.",
    "Thanks, that solved it!",
    "Patient reports mild headache since Monday; no fever, no allergies, takes ibuprofen 400 mg.",
    "Why was I charged twice?",
    "The second bearing on line 4 has been making a grinding noise since the last maintenance.",
    "This is by far the best coffee machine we have ever had in the office.",
    "Do not buy this.",
    "Our quarterly revenue grew by 4.2 percent, driven mostly by stronger demand in the north, "
    "while costs for energy and transport stayed close to what had been planned in the spring.",
    "¿Dónde puedo recoger mi tarjeta nueva?",
    "Die Lieferung ist leider nicht vollständig angekommen.",
    "La facture du mois dernier comporte une erreur de deux euros.",
    "请问我的包裹什么时候能到？",
    "荷物はまだ届いていません。",
    "متى يصل طلبي؟",
    "Когда откроется отделение на улице Садовой?",
    "Great service 👍👍 will come again 😊",
    "ERROR 0x80070005: access denied while writing C:\\logs\\today.txt",
    "Call me at noon.",
    "She said that the contract, which had been signed in March and amended twice since, would "
    "end on the last day of the year unless either side asked in writing for another twelve months "
    "at the same price, and that nobody had done so until the morning of the meeting.",
    "ok",
    "How do I reset the password of a colleague who has left the company?",
    "The lamp is blue; the switch is behind the door.",
    "I have tried to log in three times, the code never comes, and now the app says that I am "
    "locked out for a day.",
    "naïve café façade",
    "1, 2, 3, 4, 5",
    "Is it possible to pay in instalments without a credit card?",
    "We regret to inform you that your application was not successful this time.",
    "What a wonderful surprise to see you all here tonight",
)
