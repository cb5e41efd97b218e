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

# Prose to predict, where a recipe has none: of several kinds, and long enough for a few windows.
PROSE = (
    "When the ferry left the harbour that morning, the lake was so still that the hills stood on "
    "their heads in it. Marta counted her crates of apples again. There were thirty-one, one more "
    "than last week, and she had promised the baker on the other side every one of them. The wind "
    "came up at noon, as it always did, and the boat began to roll a little. Nobody on board "
    "minded except a small dog, who lay down under a bench and looked offended.",
    "Before you open the cabinet, switch off the main power and wait for two minutes. Remove the "
    "four screws on the left, then lift the panel towards you. The filter is behind the fan: pull "
    "it out by its handle, shake the dust off outside, and wash it with warm water. Let it dry for "
    "a day before you put it back. If the red lamp still blinks afterwards, note the number on the "
    "display and call the service desk.",
    "The study followed 412 patients over three years. Those in the first group were given the new "
    "treatment twice a day, and those in the second group the usual one. After twelve months, "
    "61 percent of the first group reported less pain, against 48 percent of the second. Side "
    "effects were mild in both groups, and no patient had to leave the study because of them. The "
    "authors warn that the groups differed in age, so that further work is needed.",
    "Dear Ms Okafor, thank you for your letter of 3 May. We have looked into the two payments that "
    "you mention. The first was made by standing order and is correct. The second was charged "
    "twice by mistake, and the amount of 84.20 euros was returned to your account this morning. "
    "We are sorry for the trouble. If you have any other question, please write to us or ring the "
    "branch during opening hours.",
)
