# Shown as it is, in the introduction's style, which the formatter and the linters leave alone.
# fmt: off
# ruff: noqa
# mypy: ignore-errors
from threading import Lock
from processing import Process
from processing.managers import BaseManager

class Account:
    def __init__(self, owner):
        self.owner, self.balance, self.lock = owner, 0, Lock()

    def deposit(self, amount):
        with self.lock:                     # the server may run calls of several clients at once
            self.balance += amount

    def statement(self):
        return f'{self.owner}: {self.balance}'

class Bank:
    def __init__(self):
        self.accounts = {}

    def account(self, owner):
        return self.accounts.setdefault(owner, Account(owner))

    def rob(self):
        self.accounts.clear()

class BankManager(BaseManager):
    pass

# account() gives a proxy: the Account, with its lock, stays in the server. rob() cannot be called from outside.
BankManager.register('Bank', Bank, exposed=['account'], method_to_typeid={'account': 'Account'})
BankManager.register('Account', exposed=['deposit', 'statement'], create_method=False)

def earn(account):
    for _ in range(100):
        account.deposit(1)

if __name__ == '__main__':
    with BankManager() as manager:
        bank = manager.Bank()
        alice, bob = bank.account('Alice'), bank.account('Bob')
        workers = [Process(target=earn, args=[account]) for account in (alice, alice, alice, bob)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        print(alice.statement())
        print(bank.account('Bob').statement())
        print('rob' in dir(bank), 'account' in dir(bank))
